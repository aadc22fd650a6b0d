/** What a GGUF file holds: its tensors by their names in the Hugging Face model, as the file packs them. */
import { checkScales, ggufFiles, openGguf } from "@peftjs/gguf"
import { readConfig } from "@peftjs/models"
import { elementCount, openModel } from "@peftjs/safetensors"
import { nodeFile } from "@peftjs/safetensors/node"
import { requireFinite } from "./inspect-tensors.ts"

/** Reads every byte. Throws what using the file would. */
export async function inspectGguf(path: string): Promise<object> {
  const source = await nodeFile(path)
  const file = await openGguf(source)
  const files = ggufFiles(source)
  const { values } = await readConfig(files)
  await requireFinite(await openModel(files))
  await checkScales(file)
  const types: Record<string, number> = {}
  for (const { kind, shape } of file.tensors.values()) types[kind] = (types[kind] ?? 0) + elementCount(shape)
  return {
    ...{ kind: "gguf", path, model_type: values.model_type, architectures: values.architectures },
    tensor_count: file.tensors.size,
    parameters: Object.values(types).reduce((a, b) => a + b, 0),
    bytes: [...file.tensors.values()].reduce((sum, { start, end }) => sum + end - start, 0),
    types,
    tokenizer: await files.has("tokenizer.json"),
    tensors: [...file.tensors].map(([name, { kind, shape }]) => ({ name, type: kind, shape })),
  }
}
