/**
 * The tensors of a GGUF file as one model.safetensors that is nowhere written: its header is made, its bytes are read from the file when
 * they are asked for. Packed tensors are U8 [rows, bytes of a row] under their format's name; names are Hugging Face's, and the rows of
 * queries and keys are in its order. Knows no formats beyond their names.
 */
import { PeftError } from "@peftjs/core"
import { type ByteSource, readRange } from "@peftjs/safetensors"
import { architectureOf, metadataValue } from "./config.ts"
import { packedName } from "./formats.ts"
import { denseKinds, isPacked, packedKinds } from "./kinds.ts"
import { huggingFaceName, ropeFactors } from "./names.ts"
import type { GgufFile, GgufTensor } from "./open.ts"

/** Consecutive bytes of the file that is made. */
interface Segment {
  readonly start: number
  readonly end: number
  /** Bytes of it, counted from its start. */
  read(from: number, to: number): Promise<Uint8Array>
}

/** Throws E_MODEL, E_WEIGHTS (tensors that no such model has). */
export function virtualWeights(file: GgufFile, name: string): ByteSource {
  const heads = headsOf(file)
  const entries: Record<string, object> = {}
  const unknown: string[] = []
  const placed: { readonly length: number; readonly read: Segment["read"] }[] = []
  let at = 0
  for (const [own, tensor] of file.tensors) {
    if (own === ropeFactors) continue
    const found = huggingFaceName(own)
    if (found === undefined) {
      unknown.push(own)
      continue
    }
    const length = tensor.end - tensor.start
    const { called, dtype, shape } = described(found, tensor)
    entries[called] = { dtype, shape, data_offsets: [at, at + length] }
    placed.push({ length, read: reader(file.source, tensor, heads(own)) })
    at += length
  }
  if (unknown.length > 0) throw unknownError(file, unknown)
  const header = headerBytes(entries)
  const segments: Segment[] = [{ start: 0, end: header.length, read: async (from, to) => header.subarray(from, to) }]
  let start = header.length
  for (const { length, read } of placed) {
    segments.push({ start, end: start + length, read })
    start += length
  }
  return { name, size: start, read: (from, to) => readSegments(segments, from, to) }
}

/** Name, type and shape in the file that is made. */
function described(
  name: string,
  { kind, shape }: GgufTensor,
): { readonly called: string; readonly dtype: string; readonly shape: readonly number[] } {
  if (!isPacked(kind)) return { called: name, dtype: denseKinds[kind as keyof typeof denseKinds].dtype, shape }
  const { values, bytes } = packedKinds[kind]
  const rowBytes = ((shape.at(-1) as number) / values) * bytes
  const called = name.endsWith(".weight") ? name.replace(/weight$/, packedName(kind)) : name
  return { called, dtype: "U8", shape: [...shape.slice(0, -1), rowBytes] }
}

function headerBytes(entries: object): Uint8Array {
  const json = JSON.stringify(entries)
  const text = new TextEncoder().encode(json.padEnd(Math.ceil(json.length / 8) * 8))
  const header = new Uint8Array(8 + text.length)
  new DataView(header.buffer).setBigUint64(0, BigInt(text.length), true)
  header.set(text, 8)
  return header
}

async function readSegments(segments: readonly Segment[], from: number, to: number): Promise<Uint8Array> {
  const touched = segments.filter(({ start, end }) => start < to && end > from)
  const part = ({ start, end, read }: Segment): Promise<Uint8Array> =>
    read(Math.max(from, start) - start, Math.min(to, end) - start)
  if (touched.length === 1) return part(touched[0] as Segment)
  const whole = new Uint8Array(to - from)
  for (const segment of touched) whole.set(await part(segment), Math.max(0, segment.start - from))
  return whole
}

/** Heads of a tensor whose rows stand in another order in the file; undefined where they do not. */
function headsOf(file: GgufFile): (name: string) => number | undefined {
  const architecture = architectureOf(file)
  // Only files of "llama" have the two halves of a head interleaved.
  if (architecture !== "llama") return () => undefined
  const heads = Number(metadataValue(file, "llama.attention.head_count"))
  const kvHeads = Number(metadataValue(file, "llama.attention.head_count_kv") ?? heads)
  return (name) => (/\.attn_q\./.test(name) ? heads : /\.attn_k\./.test(name) ? kvHeads : undefined)
}

function reader(source: ByteSource, { shape, start, end }: GgufTensor, heads: number | undefined): Segment["read"] {
  const rows = shape[0] as number
  if (heads === undefined || rows % (2 * heads) !== 0) return (from, to) => readRange(source, start + from, start + to)
  const rowBytes = (end - start) / rows
  const headBytes = (rows / heads) * rowBytes
  return async (from, to) => {
    const first = Math.floor(from / headBytes) * headBytes
    const stored = await readRange(source, start + first, start + Math.ceil(to / headBytes) * headBytes)
    return inHalves(stored, rowBytes, headBytes).subarray(from - first, to - first)
  }
}

/** Row 2i + j of a head goes to row j · n/2 + i: what turns together stood side by side, and now stands half a head apart. */
function inHalves(stored: Uint8Array, rowBytes: number, headBytes: number): Uint8Array {
  const turned = new Uint8Array(stored.length)
  const half = headBytes / 2
  for (let head = 0; head < stored.length; head += headBytes)
    for (let pair = 0; 2 * pair * rowBytes < headBytes; pair++)
      for (const j of [0, 1]) {
        const at = head + (2 * pair + j) * rowBytes
        turned.set(stored.subarray(at, at + rowBytes), head + j * half + pair * rowBytes)
      }
  return turned
}

function unknownError({ source }: GgufFile, names: readonly string[]): PeftError {
  const rest = names.length > 3 ? ` and ${names.length - 3} more` : ""
  return new PeftError(
    "E_WEIGHTS",
    `[gguf] ${source.name} holds ${names.slice(0, 3).join(", ")}${rest}, which no supported model has; take a Hugging Face folder of the model`,
  )
}
