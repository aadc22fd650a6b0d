/** The same with files on disk. The only file of this package that needs Node. */
import { dirname } from "node:path"
import type { FileSource } from "@peftjs/safetensors"
import { nodeFile, nodeFiles } from "@peftjs/safetensors/node"
import { ggufFiles as filesOf } from "./files.ts"

/** A GGUF file as a Hugging Face folder; a tokenizer.json beside it stands in where the file's own tokenizer cannot be read. */
export function ggufFiles(path: string): FileSource {
  return filesOf({ name: path, open: () => nodeFile(path) }, { tokenizer: nodeFiles(dirname(path)) })
}
