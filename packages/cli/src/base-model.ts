/** The model that `peft train` starts from: a folder's, or a random one of a configuration. Must not know methods. */
import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { type Backend, type Model, PeftError } from "@peftjs/core"
import { initCausalLM, loadCausalLM, loadTokenizer } from "@peftjs/models/node"
import type { TrainFlags } from "./train-options.ts"

/**
 * Loads or makes it. A random one is called after the folder it will be written to, and takes the tokenizer beside its configuration.
 * Throws E_OPTION unless exactly one of the two is named, and what loading throws.
 */
export async function baseModel(flags: TrainFlags, backend: Backend, writtenTo: string): Promise<Model> {
  const { model, initConfig, seed } = flags
  if ((model === undefined) === (initConfig === undefined)) {
    throw new PeftError(
      "E_OPTION",
      "[cli] give --model with a model folder, or --init-config with a config.json; one of the two",
    )
  }
  if (initConfig === undefined) return loadCausalLM(model as string, { backend })
  const folder = dirname(initConfig)
  const tokenizer = existsSync(join(folder, "tokenizer.json")) ? { tokenizer: await loadTokenizer(folder) } : {}
  return initCausalLM(initConfig, { backend, seed, name: writtenTo, ...tokenizer })
}
