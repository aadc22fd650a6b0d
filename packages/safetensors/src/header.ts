/**
 * The header of a file: its length, its JSON, and the checks that make every later read safe. The rules are those of
 * the reference library (safetensors 0.8.0, tensor.rs: `read_metadata` and `Metadata::validate`), plus the format's own
 * ban on duplicate keys. Stricter than the reference only where no real file is: it also takes entries written as lists,
 * fractions in fields nobody reads, and sizes above 2^53 in empty tensors. Works on bytes already read; must not know where they come from.
 */
import { type Dtype, dtypeBits, dtypes, isDtype } from "./dtype.ts"
import { fail } from "./error.ts"
import { scanJson } from "./scan-json.ts"

/** What a file says about one tensor. */
export interface TensorInfo {
  readonly dtype: Dtype
  /** `[]` is a scalar; a size may be 0. */
  readonly shape: readonly number[]
  readonly byteLength: number
  /** First byte and the byte after the last, counted from the beginning of the file. */
  readonly start: number
  readonly end: number
  /** Name of the file the bytes lie in. */
  readonly file: string
}

/** A header that passed every check. */
export interface Header {
  /** `__metadata__`; empty if the file has none. */
  readonly metadata: Readonly<Record<string, string>>
  /** In the order of their bytes in the file. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
}

/** Bytes before the JSON. */
export const prefixBytes = 8
/** The reference library refuses longer headers. */
export const maxHeaderBytes = 100_000_000

const maxU64 = 0xffff_ffff_ffff_ffffn
const damaged = "the file is damaged or was not written by a safetensors library; fetch or write it again"

function headerError(file: string, problem: string, cause?: unknown): never {
  fail("E_SAFETENSORS_HEADER", `${file}: ${problem}; ${damaged}`, cause)
}

function layoutError(file: string, tensor: string, problem: string): never {
  fail("E_SAFETENSORS_LAYOUT", `${file}: tensor ${JSON.stringify(tensor)}: ${problem}; ${damaged}`)
}

/**
 * Length of the JSON header in bytes.
 *
 * @param prefix the first bytes of the file, at least 8 unless the file is shorter
 * @param fileSize bytes of the whole file
 * @throws E_SAFETENSORS_HEADER if the file cannot hold such a header
 */
export function headerLength(prefix: Uint8Array, fileSize: number, file: string): number {
  if (prefix.byteLength < prefixBytes)
    headerError(file, `${fileSize} bytes are too few for a safetensors file, which begins with an 8-byte length`)
  const length = new DataView(prefix.buffer, prefix.byteOffset, prefixBytes).getBigUint64(0, true)
  if (length > BigInt(maxHeaderBytes))
    headerError(file, `the header claims ${length} bytes, more than the allowed ${maxHeaderBytes}`)
  if (Number(length) + prefixBytes > fileSize)
    headerError(file, `the header claims ${length} bytes, but only ${fileSize - prefixBytes} follow`)
  return Number(length)
}

/**
 * Parses and checks a header.
 *
 * @param json the header's bytes, without the length before it
 * @param fileSize bytes of the whole file
 * @throws E_SAFETENSORS_HEADER for bad UTF-8, JSON or fields, E_SAFETENSORS_LAYOUT if shapes and offsets contradict each
 * other (holes, overlaps, sizes), E_SAFETENSORS_SIZE if the tensors do not end exactly where the file does
 */
export function parseHeader(json: Uint8Array, fileSize: number, file: string): Header {
  const root = parseJson(json, file)
  const metadata = parseMetadata(root.__metadata__, file)
  const base = prefixBytes + json.byteLength
  const entries = Object.entries(root)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]) => parseTensor(name, value, file))
    .sort((a, b) => a.offsets[0] - b.offsets[0] || a.offsets[1] - b.offsets[1])
  const tensors = new Map<string, TensorInfo>()
  let position = 0
  for (const { name, dtype, shape, offsets } of entries) {
    const [start, end] = offsets
    if (start !== position || end < start)
      layoutError(file, name, `data_offsets [${start}, ${end}] should begin at ${position}, without hole or overlap`)
    const needed = byteLength(dtype, shape, name, file)
    if (BigInt(end - start) !== needed)
      layoutError(
        file,
        name,
        `${dtype} [${shape}] takes ${needed} bytes, data_offsets [${start}, ${end}] hold ${end - start}`,
      )
    tensors.set(name, { dtype, shape, byteLength: end - start, start: base + start, end: base + end, file })
    position = end
  }
  if (base + position !== fileSize) {
    const hint =
      base + position > fileSize ? "it was cut off; fetch it again" : "something was appended; fetch it again"
    fail(
      "E_SAFETENSORS_SIZE",
      `${file}: the header describes ${base + position} bytes, the file has ${fileSize}: ${hint}`,
    )
  }
  return { metadata, tensors }
}

function parseJson(json: Uint8Array, file: string): Record<string, unknown> {
  let text: string
  let root: unknown
  try {
    // A byte order mark must stay, so that JSON refuses it as the reference does.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(json)
    root = JSON.parse(text)
  } catch (error) {
    headerError(file, `the header is not UTF-8 encoded JSON (${(error as Error).message})`, error)
  }
  const problem = scanJson(text)
  if (problem !== undefined) headerError(file, `the header has ${problem}`)
  if (!isObject(root)) headerError(file, "the header is not a JSON object")
  return root
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}

function parseMetadata(value: unknown, file: string): Readonly<Record<string, string>> {
  if (value === undefined || value === null) return {}
  if (!isObject(value)) headerError(file, "__metadata__ is not an object of strings")
  for (const [key, text] of Object.entries(value))
    if (typeof text !== "string") headerError(file, `__metadata__ entry ${JSON.stringify(key)} is not a string`)
  return value as Record<string, string>
}

interface Entry {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly offsets: readonly [number, number]
}

function parseTensor(name: string, value: unknown, file: string): Entry {
  const at = `tensor ${JSON.stringify(name)}`
  if (!isObject(value)) headerError(file, `${at} is not described by an object`)
  const { dtype, shape, data_offsets: offsets } = value
  if (!isDtype(dtype)) headerError(file, `${at} has dtype ${JSON.stringify(dtype)}, known are ${dtypes.join(", ")}`)
  if (!Array.isArray(shape) || !shape.every(isSize)) headerError(file, `${at} has a shape that is not a list of sizes`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    headerError(file, `${at} has data_offsets that are not two positions`)
  return { name, dtype, shape, offsets: offsets as [number, number] }
}

/** Integers beyond 2^53 arrive rounded from JSON, but no file is that long: refusing them loses nothing. */
function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && !Object.is(value, -0) && (value as number) >= 0
}

/** Bytes of a tensor, in 64-bit arithmetic that refuses to overflow, as the reference's `checked_mul` does. */
function byteLength(dtype: Dtype, shape: readonly number[], name: string, file: string): bigint {
  let bits = 1n
  for (const factor of [...shape, dtypeBits(dtype)]) {
    bits *= BigInt(factor)
    if (bits > maxU64) layoutError(file, name, `the size of ${dtype} [${shape}] overflows 64 bits`)
  }
  if (bits % 8n !== 0n) layoutError(file, name, `${dtype} [${shape}] does not fill whole bytes`)
  return bits / 8n
}
