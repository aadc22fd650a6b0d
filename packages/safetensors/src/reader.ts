/**
 * Reading one file: the header at once, tensors when asked for. Bytes come through ByteSource only; decoding to
 * float32 is the caller's choice (float.ts).
 */
import { type ByteSource, readRange } from "./byte-source.ts"
import { type Dtype, type TensorArray, tensorBytes, typedView } from "./dtype.ts"
import { fail } from "./error.ts"
import { type Header, headerLength, parseHeader, prefixBytes, type TensorInfo } from "./header.ts"

/** A tensor with its elements. */
export interface TensorData {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** The elements, or their codes (BF16, F16, F8, F4, F6). May be a view of memory shared with others: do not write. */
  readonly data: TensorArray
}

/** Tensors by name, in one file or several. */
export interface TensorSource {
  /** What to call it in messages. */
  readonly name: string
  /** `__metadata__`; empty if there is none. */
  readonly metadata: Readonly<Record<string, string>>
  /** What there is, in the order of the bytes. */
  readonly tensors: ReadonlyMap<string, TensorInfo>
  /** One tensor, in `into` as ByteSource's read has it. E_TENSOR_NOT_FOUND for an unknown name, E_READ if the bytes cannot be had. */
  read(name: string, into?: Uint8Array): Promise<TensorData>
  /**
   * Rows `start` up to but not including `end` of the first dimension, reading nothing else; the shape is
   * `[end - start, ...rest]`. E_TENSOR_ROWS for a scalar, a range outside the tensor, or 4- and 6-bit rows that do not
   * fill whole bytes.
   */
  readRows(name: string, start: number, end: number, into?: Uint8Array): Promise<TensorData>
}

/** Read on first contact, so that most files need one request for their header. */
const firstRead = 65_536

/**
 * Opens a file: reads and checks its header, nothing else.
 *
 * @throws E_SAFETENSORS_HEADER, E_SAFETENSORS_LAYOUT, E_SAFETENSORS_SIZE, E_READ
 */
export async function openSafetensors(source: ByteSource): Promise<TensorSource> {
  const head = await readRange(source, 0, Math.min(source.size, firstRead))
  const end = prefixBytes + headerLength(head, source.size, source.name)
  const json = end <= head.byteLength ? head.subarray(prefixBytes, end) : await readRange(source, prefixBytes, end)
  const header = parseHeader(json, source.size, source.name)
  return {
    name: source.name,
    ...header,
    read: async (name, into) => {
      const info = findTensor(header.tensors, name, source.name)
      return tensorData(info.dtype, info.shape, await readRange(source, info.start, info.end, into))
    },
    readRows: async (name, start, end, into) => {
      const info = findTensor(header.tensors, name, source.name)
      const rows = rowRange(info, start, end, name)
      return tensorData(info.dtype, rows.shape, await readRange(source, rows.start, rows.end, into))
    },
  }
}

/** A whole file in memory, with views of its tensors (copies only where the address is not aligned). */
export interface ParsedSafetensors {
  readonly metadata: Header["metadata"]
  readonly tensors: ReadonlyMap<string, TensorData>
}

/**
 * Parses a whole file at once.
 *
 * @param file what to call it in messages
 * @throws E_SAFETENSORS_HEADER, E_SAFETENSORS_LAYOUT, E_SAFETENSORS_SIZE
 */
export function parseSafetensors(data: Uint8Array, file = "safetensors data"): ParsedSafetensors {
  const end = prefixBytes + headerLength(data, data.byteLength, file)
  const { metadata, tensors } = parseHeader(data.subarray(prefixBytes, end), data.byteLength, file)
  const parsed = new Map<string, TensorData>()
  for (const [name, info] of tensors)
    parsed.set(name, tensorData(info.dtype, info.shape, data.subarray(info.start, info.end)))
  return { metadata, tensors: parsed }
}

/** Looks a tensor up. E_TENSOR_NOT_FOUND names the file and how many tensors it has. */
export function findTensor<T>(tensors: ReadonlyMap<string, T>, name: string, file: string): T {
  return (
    tensors.get(name) ??
    fail("E_TENSOR_NOT_FOUND", `${file} has no tensor ${JSON.stringify(name)} among its ${tensors.size}`)
  )
}

function tensorData(dtype: Dtype, shape: readonly number[], data: Uint8Array): TensorData {
  return { dtype, shape, data: typedView(dtype, data) }
}

function rowRange(
  info: TensorInfo,
  first: number,
  last: number,
  name: string,
): { shape: number[]; start: number; end: number } {
  const [rows, ...rest] = info.shape
  const given = `rows ${first} to ${last} of ${JSON.stringify(name)} [${info.shape}]`
  if (
    rows === undefined ||
    !Number.isInteger(first) ||
    !Number.isInteger(last) ||
    first < 0 ||
    last < first ||
    last > rows
  )
    fail("E_TENSOR_ROWS", `${given} do not exist; give 0 ≤ start ≤ end ≤ the first size`)
  const rowBytes = tensorBytes(info.dtype, rest)
  const [start, end] = [info.start + first * rowBytes, info.start + last * rowBytes]
  if (!Number.isInteger(start) || !Number.isInteger(end))
    fail("E_TENSOR_ROWS", `${given} do not begin and end at whole bytes of ${info.dtype}`)
  return { shape: [last - first, ...rest], start, end }
}
