/** `peft convert`: an adapter in another form: as a LoRA, or in another layout of MoRA's files. */
import { resolve } from "node:path"
import { type AdapterFormat, adapterOf, bindModel, type Model, PeftError } from "@peftjs/core"
import { saveAdapter } from "@peftjs/core/node"
import { mora, upstreamLayout } from "@peftjs/mora"
import { type Command, Option } from "commander"
import pc from "picocolors"
import { asLora, type Converted } from "../as-lora.ts"
import { printJson } from "../json.ts"
import { loadModel, type ModelFlags, modelOptions } from "../model.ts"
import { required, whole } from "../options.ts"
import { makeCounter } from "../progress.ts"
import { replaceFolder } from "../replace-folder.ts"

/** Layouts of the same method's files. */
const layouts: Readonly<Record<string, AdapterFormat>> = {
  mora: mora.format as AdapterFormat,
  "mora-upstream": upstreamLayout,
}

interface ConvertFlags extends ModelFlags {
  readonly output?: string
  readonly to?: string
  readonly rank?: number
  readonly overwrite?: boolean
}

export function addConvert(program: Command): void {
  const forms = ["lora", ...Object.keys(layouts)]
  modelOptions(program.command("convert").description("write an adapter in another form"))
    .option("--output <dir>", "the new adapter folder")
    .addOption(
      new Option(
        "--to <form>",
        "lora: exact for MoRA without rotation, the nearest of a rank for other methods that merge; mora and mora-upstream: MoRA as peftjs or as its authors' code writes it",
      ).choices(forms),
    )
    .addOption(whole("--rank <n>", "highest rank of the LoRA (default: what is exact, else 64)", { min: 1 }))
    .option("--overwrite", "replace what the output folder holds")
    .action(runConvert)
}

async function runConvert(flags: ConvertFlags): Promise<void> {
  const output = resolve(required(flags.output, "--output"))
  const to = required(flags.to, "--to")
  required(flags.adapter, "--adapter")
  if (flags.rank !== undefined && to !== "lora") {
    throw new PeftError("E_OPTION", `[cli] --rank is for --to lora; a layout of MoRA keeps the rank: leave it out`)
  }
  await replaceFolder(output, flags.overwrite ?? false, async (unfinished) => {
    const adapted = named(await loadModel(flags))
    if (to === "lora") return toLora(flags, adapted, unfinished)
    const { method, sites } = adapterOf(adapted)
    if (method.name !== "mora") {
      throw new PeftError(
        "E_OPTION",
        `[cli] --to ${to} is a layout of MoRA, and the adapter is of method ${method.name}; only --to lora converts between methods`,
      )
    }
    await saveAdapter(adapted, unfinished, { format: layouts[to] as AdapterFormat })
    return () => {
      if (flags.json) printJson({ to, sites: sites.size, output: flags.output })
      else process.stdout.write(`${sites.size} layers, not changed\nadapter: ${flags.output}\n`)
    }
  })
}

/** What the adapter calls its base stands in the new files too, wherever the base was found. */
function named(model: Model): Model {
  const { base_model_name_or_path: name } = adapterOf(model).loaded ?? {}
  return typeof name === "string" && name !== "" ? bindModel({ ...model.definition, name }, model.view) : model
}

async function toLora(flags: ConvertFlags, adapted: Model, folder: string): Promise<() => void> {
  const base = bindModel(adapted.definition)
  const counter = makeCounter("layer")
  const converted = await asLora(base, adapted, flags.rank, counter.done).finally(counter.end)
  const { model, layers, error } = converted
  await saveAdapter(model, folder)
  return () => {
    if (flags.json) printJson({ to: "lora", sites: layers.length, error, layers, output: flags.output })
    else process.stdout.write(`${describe(converted)}\nadapter: ${flags.output}\n`)
  }
}

function describe({ layers, error }: Converted): string {
  const ranks = [...new Set(layers.map(({ rank }) => rank))].sort((a, b) => a - b).join(", ")
  if (layers.every((layer) => layer.error === 0)) return `${layers.length} layers of rank ${ranks}, exact`
  const width = Math.max(...layers.map(({ path }) => path.length))
  const percent = (x: number): string => `${(100 * x).toPrecision(3)} %`
  return [
    pc.dim(`${"layer".padEnd(width)}  rank  error`),
    ...layers.map(({ path, rank, error }) => `${path.padEnd(width)}  ${String(rank).padStart(4)}  ${percent(error)}`),
    `${layers.length} layers of rank ${ranks}: ${pc.bold(percent(error))} of the update is lost`,
  ].join("\n")
}
