/** The model of a command that only uses one: the folder's, with an adapter over it where one is named. */
import type { Model } from "@peftjs/core"
import { loadAdapter } from "@peftjs/core/node"
import { loadCausalLM } from "@peftjs/models"
import { type Command, Option } from "commander"
import { type BackendFlags, makeBackend } from "./backend.ts"
import { locate } from "./hub/locate.ts"
import { bundled, methodFactory } from "./method.ts"
import { modelFiles } from "./model-files.ts"
import { commonOptions, required } from "./options.ts"
import { storedFormats } from "./weights.ts"

export interface ModelFlags extends BackendFlags {
  readonly model?: string
  readonly adapter?: string
  readonly method?: string
  readonly json?: boolean
}

/** The options of such a command. */
export function modelOptions(command: Command): Command {
  return commonOptions(command)
    .option("--model <dir>", "Hugging Face model folder, .gguf file, or ORG/NAME[@REVISION] of the hub")
    .option("--adapter <dir>", "PEFT adapter folder, or ORG/NAME[@REVISION] of the hub")
    .addOption(new Option("--method <name>", "method to load the adapter with, where it is not a bundled one"))
    .option("--config <file.yaml>", "options written down; the command line wins")
}

/** Loads it. Throws what loading throws; targets of the adapter that select nothing are told on stderr. */
export async function loadModel(flags: ModelFlags): Promise<Model> {
  const { folder, name } = await locate(required(flags.model, "--model"), "model")
  const adapter = flags.adapter === undefined ? undefined : await locate(flags.adapter, "adapter")
  const model = await loadCausalLM(modelFiles(folder), {
    backend: await makeBackend(flags),
    name,
    formats: storedFormats,
  })
  if (adapter === undefined) return model
  const methods = flags.method === undefined ? bundled : [await methodFactory(flags.method), ...bundled]
  const { model: adapted, report } = await loadAdapter(model, adapter.folder, { methods })
  for (const target of report.unmatchedTargets) {
    process.stderr.write(`peft: target ${JSON.stringify(target)} of ${adapter.name} selects nothing in this model\n`)
  }
  return adapted
}
