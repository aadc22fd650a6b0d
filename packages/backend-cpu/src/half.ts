/**
 * The two 16-bit floats: reading them as f32 and rounding f32 to them.
 * Knows arrays and bit patterns, no buffers and no kernels.
 */
import type { TypedArray } from "@peftjs/core"

const f32 = new Float32Array(1)
const bits = new Int32Array(f32.buffer)

/** The f32 nearest to `value` as a bf16 pattern; ties go to the even pattern, every NaN to the quiet one of its sign. */
export function toBf16(value: number): number {
  f32[0] = value
  const u = bits[0] as number
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff
}

/** The f32 nearest to `value` as an f16 pattern; ties to even, subnormals kept, too large becomes infinity. */
export function toF16(value: number): number {
  f32[0] = value
  const u = bits[0] as number
  const sign = (u >>> 16) & 0x8000
  const rest = u & 0x7fffffff
  if (rest > 0x7f800000) return sign | 0x7e00
  if (rest >= 0x47800000) return sign | 0x7c00
  if (rest < 0x38800000) {
    // Below the smallest normal f16, 2^-14: adding 2^-1 makes the f32 unit drop exactly the bits that a multiple of 2^-24 lacks.
    f32[0] = Math.abs(f32[0] as number) + 0.5
    return sign | ((bits[0] as number) - 0x3f000000)
  }
  return sign | (((rest - 0x38000000 + 0xfff + ((rest >>> 13) & 1)) >>> 13) & 0x7fff)
}

let f16Values: Float32Array | undefined

/** The value of every f16 pattern. */
export function f16Table(): Float32Array {
  if (f16Values !== undefined) return f16Values
  const table = new Float32Array(65536)
  for (let i = 0; i < 65536; i++) {
    const exponent = (i >>> 10) & 31
    const fraction = i & 1023
    const magnitude =
      exponent === 31
        ? fraction === 0
          ? Number.POSITIVE_INFINITY
          : Number.NaN
        : exponent === 0
          ? fraction * 2 ** -24
          : (1 + fraction / 1024) * 2 ** (exponent - 15)
    table[i] = i & 0x8000 ? -magnitude : magnitude
  }
  f16Values = table
  return table
}

/** Element types that kernels read as numbers; `kind` of a buffer's array is its dtype. */
export type FloatType = "f32" | "f16" | "bf16"

/** target[i] = source[start + i] for i < n, widened. */
export function widen(source: TypedArray, dtype: string, start: number, n: number, target: Float32Array): void {
  if (dtype === "bf16") widenBf16(source as Uint16Array, start, n, target)
  else if (dtype === "f16") {
    const table = f16Table()
    for (let i = 0; i < n; i++) target[i] = table[source[start + i] as number] as number
  } else target.set(source.subarray(start, start + n))
}

function widenBf16(source: Uint16Array, start: number, n: number, target: Float32Array): void {
  const out = new Int32Array(target.buffer, target.byteOffset, n)
  let i = 0
  if ((source.byteOffset + 2 * start) % 4 === 0) {
    // Two at a time: half the loads.
    const pairs = new Int32Array(source.buffer, source.byteOffset + 2 * start, n >>> 1)
    for (let p = 0; p < pairs.length; p++, i += 2) {
      const pair = pairs[p] as number
      out[i] = pair << 16
      out[i + 1] = pair & 0xffff0000
    }
  }
  for (; i < n; i++) out[i] = (source[start + i] as number) << 16
}
