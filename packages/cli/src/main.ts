/** The `peft` command: its subcommands, and one clear line on stderr when one of them fails. */
import { readFileSync } from "node:fs"
import { Command } from "commander"
import { withConfigFile } from "./config-file.ts"
import { reportFailure } from "./failure.ts"

/** A command's code is loaded when it is named, so that it begins without waiting for the others'. */
const commands: Readonly<Record<string, () => Promise<(program: Command) => void>>> = {
  train: async () => (await import("./commands/train.ts")).addTrain,
  estimate: async () => (await import("./commands/estimate.ts")).addEstimate,
  eval: async () => (await import("./commands/eval.ts")).addEval,
  logits: async () => (await import("./commands/logits.ts")).addLogits,
  generate: async () => (await import("./commands/generate.ts")).addGenerate,
  merge: async () => (await import("./commands/merge.ts")).addMerge,
  quantize: async () => (await import("./commands/quantize.ts")).addQuantize,
  convert: async () => (await import("./commands/convert.ts")).addConvert,
  spectrum: async () => (await import("./commands/spectrum.ts")).addSpectrum,
  inspect: async () => (await import("./commands/inspect.ts")).addInspect,
  bench: async () => (await import("./commands/bench.ts")).addBench,
  setup: async () => (await import("./commands/setup.ts")).addSetup,
  doctor: async () => (await import("./commands/doctor.ts")).addDoctor,
}

async function makeProgram(wanted: string | undefined): Promise<Command> {
  const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
    version: string
  }
  const program = new Command("peft")
    .description("Parameter-efficient fine-tuning of language models; adapters in the format of Hugging Face PEFT")
    .version(version)
    .exitOverride()
    // Errors are printed by reportFailure, in the same form as all others.
    .configureOutput({ outputError: () => {} })
  for (const name of wanted !== undefined && Object.hasOwn(commands, wanted) ? [wanted] : Object.keys(commands)) {
    const add = await commands[name]?.()
    add?.(program)
  }
  return program
}

// Whoever reads may stop early: `peft inspect … | head`.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error
})
try {
  const args = await withConfigFile(process.argv.slice(2))
  await (await makeProgram(args[0])).parseAsync(args, { from: "user" })
} catch (error) {
  process.exitCode = reportFailure(error)
}
