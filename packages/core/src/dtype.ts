/** Element types a device buffer may hold, and the typed arrays that carry them on the host. */

export type DType = "f32" | "f16" | "bf16" | "i32" | "u32" | "u8"

/** Host memory of a buffer. f16 and bf16 travel as their 16-bit patterns. */
export type TypedArray = Float32Array | Uint16Array | Int32Array | Uint32Array | Uint8Array

export type Shape = readonly number[]

const arrays = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  i32: Int32Array,
  u32: Uint32Array,
  u8: Uint8Array,
} as const

/** What safetensors files call the floating point types. */
export const fileDtypes = { f32: "F32", f16: "F16", bf16: "BF16" } as const

export const bytesPerElement: Readonly<Record<DType, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4, u32: 4, u8: 1 }

/** A zeroed host array of `length` elements of `dtype`. */
export function hostArray(dtype: DType, length: number): TypedArray {
  return new arrays[dtype](length)
}

/** Host memory as `length` elements of `dtype`, from a byte offset that is a multiple of an element's size. */
export function hostView(dtype: DType, memory: ArrayBufferLike, byteOffset: number = 0, length?: number): TypedArray {
  // Over shared memory too, which the constructors take and the type of this union of them does not say.
  return new arrays[dtype](memory as ArrayBuffer, byteOffset, length)
}

/** Number of elements of a shape; 1 for a scalar. */
export function sizeOf(shape: Shape): number {
  let n = 1
  for (const d of shape) n *= d
  return n
}
