/** `peft setup cuda`: fetches the TensorFlow that the CUDA backend runs on, and tries it. */
import { cuda } from "@peftjs/backend-cuda/node"
import { selfTest } from "@peftjs/backend-webgpu/node"
import { isPeftError } from "@peftjs/core"
import { type Command, Option } from "commander"
import pc from "picocolors"
import { kernelsOf, problemOf } from "../backend.ts"
import { printJson } from "../json.ts"
import { addonOf, buildAddon } from "../tensorflow/addon.ts"
import { type InstallPlan, install, planInstall } from "../tensorflow/install.ts"

interface SetupFlags {
  readonly device: "cpu" | "gpu"
  readonly fromPython?: string
  readonly python: string
  readonly addon?: boolean
  readonly dryRun?: boolean
  readonly json?: boolean
}

export function addSetup(program: Command): void {
  program
    .command("setup")
    .description("fetch what a backend needs and no package brings")
    .command("cuda")
    .description(
      "fetch TensorFlow for --backend cuda, with CUDA and cuDNN (2.4 GB), and try it; needs python3 with pip",
    )
    .addOption(
      new Option("--device <name>", "cpu: without CUDA, for tests (230 MB)").choices(["gpu", "cpu"]).default("gpu"),
    )
    .option("--from-python <python>", "take the TensorFlow that this Python has")
    .option("--python <python>", "whose pip fetches", "python3")
    .option("--addon", "compile the addon of tfjs-node-gpu as well; needs g++")
    .option("--dry-run", "tell what would be done, and do nothing")
    .option("--json", "print one JSON object on stdout and nothing else")
    .option("--debug", "show the stack of an error (also PEFT_DEBUG=1)")
    .action(runSetup)
}

async function runSetup(flags: SetupFlags): Promise<void> {
  const plan = planInstall({ ...flags, addon: flags.addon ?? false })
  if (flags.dryRun) {
    const { folder, there, steps, download, disk } = plan
    if (flags.json) printJson({ folder, there, steps, download_mb: download, disk_mb: disk })
    else process.stdout.write(describe(plan))
    return
  }
  process.stderr.write(describe(plan))
  await install(plan, flags.python)
  if (flags.addon && plan.steps.length > 1) await buildAddon(plan.folder)
  const tested = await test(plan.folder, flags)
  if (flags.json) printJson({ folder: plan.folder, ...(flags.addon ? { addon: addonOf(plan.folder) } : {}), ...tested })
  else {
    const lines = [`${plan.folder}`, ...tested.works.map((text) => pc.green(`computes right: ${text}`))]
    if (tested.missing) lines.push(pc.yellow(`not on a GPU: ${tested.missing}`))
    process.stdout.write(`${lines.join("\n")}\n`)
  }
}

function describe({ folder, steps, download, disk }: InstallPlan): string {
  const size = download > 0 ? `fetches ${download} MB; ${disk} MB on disk\n` : ""
  return `${folder}\n${steps.map((step) => `  ${step}\n`).join("")}${size}`
}

/** Some device must compute right; the GPU may be missing where a machine is only being prepared. */
async function test(library: string, { device, addon }: SetupFlags): Promise<{ works: string[]; missing?: string }> {
  const works: string[] = []
  let missing: string | undefined
  for (const runtime of addon ? (["capi", "addon"] as const) : (["capi"] as const)) {
    const on = async (where: "cpu" | "gpu"): Promise<void> => {
      const backend = await cuda({ library, runtime, device: where })
      await selfTest(backend)
      works.push(kernelsOf(backend))
    }
    if (device === "cpu" || missing !== undefined) await on("cpu")
    else {
      try {
        await on("gpu")
      } catch (error) {
        if (!isPeftError(error) || (error.code !== "E_NO_DEVICE" && error.code !== "E_CUDA_LIBRARIES")) throw error
        missing = problemOf(error)
        await on("cpu")
      }
    }
  }
  return { works, ...(missing === undefined ? {} : { missing }) }
}
