/** The files of a model by its path: a Hugging Face folder, or a GGUF file, which is read as one. */
import { extname } from "node:path"
import { ggufFiles } from "@peftjs/gguf/node"
import type { FileSource } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"

export const isGguf = (path: string): boolean => extname(path).toLowerCase() === ".gguf"

export function modelFiles(path: string): FileSource {
  return isGguf(path) ? ggufFiles(path) : nodeFiles(path)
}
