/**
 * The dtypes of the format: their sizes and which typed array shows their elements. Values are little-endian, as is
 * every machine that runs a current JavaScript engine. Nothing here knows about files; conversions are in float.ts.
 */
import { fail } from "./error.ts"

/** Every typed array a tensor is shown as. */
export type TensorArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array

/** A dtype of safetensors 0.8.0, spelled as in the file. */
export type Dtype =
  | ("BOOL" | "F4" | "F6_E2M3" | "F6_E3M2" | "U8" | "I8")
  | ("F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ")
  | ("I16" | "U16" | "F16" | "BF16" | "I32" | "U32" | "F32" | "C64" | "F64" | "I64" | "U64")

interface DtypeRow {
  /** Bits of one element. */
  readonly bits: number
  /** Shows the elements; for types JavaScript lacks, their codes. F4 and F6 are packed bytes, C64 is (re, im) pairs. */
  readonly array: {
    readonly name: string
    readonly BYTES_PER_ELEMENT: number
    new (buffer: ArrayBuffer, byteOffset: number, length: number): TensorArray
  }
}

/**
 * In the order of increasing alignment the reference library declares them in (tensor.rs, `enum Dtype`, 0.8.0);
 * the writer sorts by it, so the order is part of the format.
 */
const rows: Readonly<Record<Dtype, DtypeRow>> = {
  BOOL: { bits: 8, array: Uint8Array },
  F4: { bits: 4, array: Uint8Array },
  F6_E2M3: { bits: 6, array: Uint8Array },
  F6_E3M2: { bits: 6, array: Uint8Array },
  U8: { bits: 8, array: Uint8Array },
  I8: { bits: 8, array: Int8Array },
  F8_E5M2: { bits: 8, array: Uint8Array },
  F8_E4M3: { bits: 8, array: Uint8Array },
  F8_E8M0: { bits: 8, array: Uint8Array },
  F8_E4M3FNUZ: { bits: 8, array: Uint8Array },
  F8_E5M2FNUZ: { bits: 8, array: Uint8Array },
  I16: { bits: 16, array: Int16Array },
  U16: { bits: 16, array: Uint16Array },
  F16: { bits: 16, array: Uint16Array },
  BF16: { bits: 16, array: Uint16Array },
  I32: { bits: 32, array: Int32Array },
  U32: { bits: 32, array: Uint32Array },
  F32: { bits: 32, array: Float32Array },
  C64: { bits: 64, array: Float32Array },
  F64: { bits: 64, array: Float64Array },
  I64: { bits: 64, array: BigInt64Array },
  U64: { bits: 64, array: BigUint64Array },
}

/** All dtypes, by increasing alignment. */
export const dtypes: readonly Dtype[] = Object.keys(rows) as Dtype[]

const ranks: ReadonlyMap<string, number> = new Map(dtypes.map((dtype, rank) => [dtype, rank]))

/** True if `name` is a dtype of the format (case matters). */
export function isDtype(name: unknown): name is Dtype {
  return typeof name === "string" && ranks.has(name)
}

/** Position of a dtype in the order of increasing alignment; larger is written earlier. */
export function dtypeRank(dtype: Dtype): number {
  return ranks.get(dtype) as number
}

/** Bits of one element: 4, 6, 8, 16, 32 or 64. */
export function dtypeBits(dtype: Dtype): number {
  return rows[dtype].bits
}

/** Number of elements of a shape; 1 for a scalar (`[]`). */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

/** Bytes of a tensor. A fraction where 4- or 6-bit elements do not fill whole bytes; callers refuse that. */
export function tensorBytes(dtype: Dtype, shape: readonly number[]): number {
  return (elementCount(shape) * dtypeBits(dtype)) / 8
}

/** Name of the typed array that shows a dtype, such as "Uint16Array" for BF16. */
export function arrayName(dtype: Dtype): string {
  return rows[dtype].array.name
}

/** Name of the typed array `data` is. By its tag, which holds across realms and for Node's Buffer, unlike instanceof. */
export function arrayTag(data: unknown): string {
  return ArrayBuffer.isView(data) ? Object.prototype.toString.call(data).slice(8, -1) : typeof data
}

/**
 * The elements of `bytes` as the dtype's typed array: a view of the same memory where the address allows it, a copy
 * otherwise. E_TENSOR_CONVERT if the bytes are not a whole number of elements.
 */
export function typedView(dtype: Dtype, bytes: Uint8Array): TensorArray {
  const { array } = rows[dtype]
  const width = array.BYTES_PER_ELEMENT
  if (bytes.byteLength % width !== 0)
    fail("E_TENSOR_CONVERT", `${bytes.byteLength} bytes are not a whole number of ${dtype} elements`)
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice()
  return new array(aligned.buffer as ArrayBuffer, aligned.byteOffset, aligned.byteLength / width)
}
