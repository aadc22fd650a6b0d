/** 16-bit floats as their patterns. */
import type { DType } from "@peftjs/core"

export type HalfType = "bf16" | "f16"

/** The 16-bit floats among some types. */
export function halfTypes(dtypes: readonly DType[]): HalfType[] {
  return dtypes.filter((t) => t === "bf16" || t === "f16")
}

/** The number a pattern stands for. */
export function halfValue(pattern: number, dtype: HalfType): number {
  if (dtype === "bf16") return new Float32Array(Uint32Array.of(pattern << 16).buffer)[0] as number
  const sign = pattern >> 15 === 1 ? -1 : 1
  const [exponent, fraction] = [(pattern >> 10) & 31, pattern & 1023]
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
}

/** Patterns of 16 bits of numbers between -4 and 4, and the numbers. */
export function halves(n: number, dtype: HalfType): { data: Uint16Array; values: Float64Array } {
  const base = dtype === "bf16" ? 0x3f00 : 0x3800
  const data = Uint16Array.from({ length: n }, (_, i) => base + ((i * 53) % 256) + (i % 3 === 0 ? 0x8000 : 0))
  return { data, values: Float64Array.from(data, (p) => halfValue(p, dtype)) }
}
