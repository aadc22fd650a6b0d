/** The model that `peft train` starts from: a folder's, the hub's, or a random one of a configuration. Must not know methods. */
import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { type Backend, type Model, PeftError } from "@peftjs/core"
import { loadCausalLM, loadTokenizer } from "@peftjs/models"
import { initCausalLM } from "@peftjs/models/node"
import type { FileSource } from "@peftjs/safetensors"
import { locate } from "./hub/locate.ts"
import { modelFiles } from "./model-files.ts"
import { baseLoading, type TrainFlags } from "./train-options.ts"
import { type loadingAs, storedFormats } from "./weights.ts"

/** Where it comes from. */
export interface BaseSource {
  /** The model's, or the one that holds the configuration. */
  readonly folder: string
  /** What adapters call it. */
  readonly name: string
  /** Path of the configuration of a random one. */
  readonly initConfig?: string
  /** How its linear layers are to be stored. */
  readonly loading?: ReturnType<typeof loadingAs>
}

/**
 * Finds it, fetching what the hub has. A random model is called after the folder it will be written to.
 * Throws E_OPTION unless exactly one of --model and --init-config is given, and what `locate` throws.
 */
export async function baseSource(flags: TrainFlags, writtenTo: string): Promise<BaseSource> {
  const { model, initConfig } = flags
  if ((model === undefined) === (initConfig === undefined)) {
    throw new PeftError(
      "E_OPTION",
      "[cli] give --model with a model folder or ORG/NAME, or --init-config with a config.json; one of the two",
    )
  }
  const loading = baseLoading(flags)
  if (initConfig === undefined) return { ...(await locate(model as string, "model")), ...(loading ? { loading } : {}) }
  if (loading) throw new PeftError("E_OPTION", "[cli] a random model is not quantised: leave out --weights")
  return { folder: dirname(initConfig), name: writtenTo, initConfig }
}

export interface BaseOptions {
  readonly backend: Backend
  readonly seed: number
  /** How files are read, where not as they are. */
  readonly through?: (files: FileSource) => FileSource
}

/** Loads or makes it, with the tokenizer there is. Throws what loading throws. */
export async function baseModel(source: BaseSource, options: BaseOptions): Promise<Model> {
  const { folder, name, initConfig, loading } = source
  const { backend, seed, through = (files) => files } = options
  const files = through(modelFiles(folder))
  if (initConfig === undefined) return loadCausalLM(files, { backend, name, ...loading, formats: storedFormats })
  const tokenizer = existsSync(join(folder, "tokenizer.json")) ? { tokenizer: await loadTokenizer(files) } : {}
  return initCausalLM(initConfig, { backend, seed, name, ...tokenizer })
}

/** The folder of the adapter to start from, where one is given. Throws what `locate` throws. */
export async function startingAdapter({ initAdapter }: TrainFlags): Promise<{ initAdapter?: string }> {
  return initAdapter === undefined ? {} : { initAdapter: (await locate(initAdapter, "adapter")).folder }
}
