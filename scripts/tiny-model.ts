/**
 * A model folder small enough to train in seconds, for programs that only need one: the random Llama of the fixtures with the ChatML
 * tokenizer of the fixtures, its vocabulary made to fit by repeating the rows of the embedding and the head.
 */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

const fixtures = join(import.meta.dirname, "..", "fixtures")
const repeated = new Set(["model.embed_tokens.weight", "lm_head.weight"])

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] }

/** Writes the folder. 512 tokens, hidden size 64, 2 layers, about 0.5 MB. */
export function writeTinyModel(folder: string): void {
  const model = join(fixtures, "models", "llama")
  const tokenizer = join(fixtures, "tokenizers", "chatml")
  mkdirSync(folder, { recursive: true })
  for (const name of ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
    copyFileSync(join(tokenizer, name), join(folder, name))
  const config = JSON.parse(readFileSync(join(model, "config.json"), "utf8"))
  const vocabulary = tokensIn(JSON.parse(readFileSync(join(tokenizer, "tokenizer.json"), "utf8")))
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, vocab_size: vocabulary }, null, 2))
  writeFileSync(join(folder, "model.safetensors"), widen(readFileSync(join(model, "model.safetensors")), vocabulary))
}

function tokensIn(tokenizer: { model: { vocab: Record<string, number> }; added_tokens: { id: number }[] }): number {
  return 1 + Math.max(...Object.values(tokenizer.model.vocab), ...tokenizer.added_tokens.map(({ id }) => id))
}

/** The same file with the vocabulary's matrices at `rows` rows, filled with their own rows over again. */
function widen(file: Buffer, rows: number): Buffer {
  const length = Number(file.readBigUInt64LE(0))
  const header: Record<string, Entry> = JSON.parse(file.toString("utf8", 8, 8 + length))
  const parts: Buffer[] = []
  let offset = 0
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue
    const [begin, end] = entry.data_offsets
    let bytes = file.subarray(8 + length + begin, 8 + length + end)
    if (repeated.has(name)) {
      bytes = Buffer.alloc((bytes.length / (entry.shape[0] ?? 1)) * rows, bytes)
      entry.shape[0] = rows
    }
    entry.data_offsets = [offset, offset + bytes.length]
    offset += bytes.length
    parts.push(bytes)
  }
  const text = JSON.stringify(header)
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(json.length))
  return Buffer.concat([size, json, ...parts])
}
