/** Element types by number and by size, and the arrays that carry them on the host. Knows no runtime. */
import { PeftError } from "@peftjs/core"
import { type TfType, tfTypes } from "./tf-runtime.ts"

const names: ReadonlyMap<number, TfType> = new Map(
  Object.entries(tfTypes).map(([name, value]) => [value, name as TfType]),
)

/** The type of a DataType number. Throws E_KERNEL for one that no kernel here makes. */
export function typeOf(value: number): TfType {
  const name = names.get(value)
  if (name === undefined)
    throw new PeftError("E_KERNEL", `[backend-cuda] TensorFlow gave a tensor of data type ${value}, which is not known`)
  return name
}

const arrays = {
  f32: Float32Array,
  f64: Float64Array,
  i32: Int32Array,
  u8: Uint8Array,
  i16: Int16Array,
  i8: Int8Array,
  i64: BigInt64Array,
  bool: Uint8Array,
  bf16: Uint16Array,
  u16: Uint16Array,
  f16: Uint16Array,
  u32: Uint32Array,
  u64: BigUint64Array,
} as const

/** Bytes of one element. */
export function bytesOf(type: TfType): number {
  return type === "resource" ? 0 : arrays[type].BYTES_PER_ELEMENT
}

/** A view of `buffer` as elements of `type`; f16 and bf16 as 16-bit patterns. */
export function viewAs(type: TfType, buffer: ArrayBuffer): ArrayBufferView {
  if (type === "resource") throw new PeftError("E_KERNEL", "[backend-cuda] a resource has no elements; read its value")
  return new arrays[type](buffer)
}

/** The bytes of `data`. Throws E_SHAPE where they are not as many as the shape asks for. */
export function bytesFor(type: TfType, shape: readonly number[], data: ArrayBufferView): Uint8Array {
  const wanted = shape.reduce((n, d) => n * d, 1) * bytesOf(type)
  if (data.byteLength === wanted) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  throw new PeftError(
    "E_SHAPE",
    `[backend-cuda] ${data.byteLength} bytes for ${type} [${shape}], which has ${wanted}; give one element for each place`,
  )
}
