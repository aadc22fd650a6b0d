/** The same with folders on disk. The only file of this package that needs Node. */
import { basename, dirname } from "node:path"
import { type Model, parseJson } from "@peftjs/core"
import { type FileSource, readText } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { configOf } from "./config.ts"
import { type InitOptions, initCausalLM as initFromConfig } from "./init.ts"
import { type LoadOptions, loadCausalLM as loadFromFiles } from "./load.ts"
import { type SaveMergedOptions, saveMerged as saveMergedToSink } from "./merge.ts"
import { type SaveOptions, saveModel as saveToSink } from "./save.ts"
import { type FolderTokenizer, loadTokenizer as loadTokenizerFromFiles } from "./tokenizer.ts"

/** Loads a Hugging Face folder; its path becomes the model's name. Throws as the function of the main entry does. */
export function loadCausalLM(dir: string, options: LoadOptions): Promise<Model> {
  return loadFromFiles(nodeFiles(dir), options)
}

/** A model with random weights from a config file. Throws E_FILE_NOT_FOUND, E_JSON, E_CONFIG, E_MODEL. */
export async function initCausalLM(file: string, options: InitOptions): Promise<Model> {
  const parsed = parseJson(await readText(nodeFiles(dirname(file)), basename(file)), file)
  return initFromConfig(configOf(parsed, file).values, options)
}

export interface SaveToFolderOptions extends Omit<SaveOptions, "copyFrom"> {
  /** A model folder whose tokenizer and generation settings are copied along. */
  readonly copyFrom?: string | FileSource
}

/** Writes a model folder. Throws as the function of the main entry does. */
export function saveModel(
  model: Model,
  dir: string,
  { copyFrom, ...options }: SaveToFolderOptions = {},
): Promise<void> {
  return saveToSink(model, nodeFiles(dir), {
    ...options,
    ...(copyFrom === undefined ? {} : { copyFrom: typeof copyFrom === "string" ? nodeFiles(copyFrom) : copyFrom }),
  })
}

/** Writes a model folder with the adapters merged. Throws as the function of the main entry does. */
export function saveMerged(
  model: Model,
  dir: string,
  { copyFrom, ...options }: SaveToFolderOptions & Pick<SaveMergedOptions, "weights"> = {},
): ReturnType<typeof saveMergedToSink> {
  return saveMergedToSink(model, nodeFiles(dir), {
    ...options,
    ...(copyFrom === undefined ? {} : { copyFrom: typeof copyFrom === "string" ? nodeFiles(copyFrom) : copyFrom }),
  })
}

/** Loads the tokenizer of a folder. Throws as the function of the main entry does. */
export function loadTokenizer(dir: string): Promise<FolderTokenizer> {
  return loadTokenizerFromFiles(nodeFiles(dir))
}
