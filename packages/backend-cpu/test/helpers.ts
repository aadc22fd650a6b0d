/** What the tests of this package need to make operands and to compare: deterministic numbers and roundings written apart from the source's. */
import { type DeviceBuffer, type DType, hostArray, type TypedArray } from "@peftjs/core"
import { expect } from "vitest"
import type { CpuBackend } from "../src/index.ts"

/** n numbers in (-2, 2), the same for the same seed. */
export function numbers(n: number, seed = 1): Float32Array {
  let state = (seed * 2654435761) >>> 0
  return Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state / 2 ** 32) * 4 - 2
  })
}

/** Uploads numbers as a float type, rounding by truncation; `values` is what the buffer then holds. */
export function floats(
  backend: CpuBackend,
  values: Float32Array,
  dtype: "f32" | "f16" | "bf16" = "f32",
): { buffer: DeviceBuffer; values: Float32Array } {
  if (dtype === "f32") return { buffer: backend.upload(values, "f32"), values }
  const patterns = Uint16Array.from(values, (x) => (dtype === "bf16" ? truncatedBf16(x) : truncatedF16(x)))
  const rounded = Float32Array.from(patterns, dtype === "bf16" ? bf16Value : f16Value)
  return { buffer: backend.upload(patterns, dtype), values: rounded }
}

export function bf16Value(pattern: number): number {
  return new Float32Array(Uint32Array.of(pattern * 65536).buffer)[0] as number
}

export function f16Value(pattern: number): number {
  const sign = pattern >= 0x8000 ? -1 : 1
  const e = (pattern >> 10) % 32
  const f = pattern % 1024
  if (e === 31) return f === 0 ? sign * Infinity : NaN
  return sign * (e === 0 ? f * 2 ** -24 : (1024 + f) * 2 ** (e - 25))
}

function truncatedBf16(x: number): number {
  return (new Uint32Array(Float32Array.of(x).buffer)[0] as number) >>> 16
}

function truncatedF16(x: number): number {
  if (x === 0) return 0
  const e = Math.max(-14, Math.floor(Math.log2(Math.abs(x))))
  const f = Math.floor((Math.abs(x) / 2 ** e) * 1024)
  return (x < 0 ? 0x8000 : 0) + (f < 1024 ? f : ((e + 15) << 10) + (f - 1024))
}

export async function values(backend: CpuBackend, buffer: DeviceBuffer): Promise<number[]> {
  return [...(await backend.read(buffer))] as number[]
}

/** Largest |a - b| / (1 + |b|); NaN equals NaN, an infinity equals itself. */
export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length)
  let worst = 0
  for (let i = 0; i < a.length; i++) {
    const x = a[i] as number
    const y = b[i] as number
    if (Object.is(x, y) || x === y) continue
    const d = Math.abs(x - y) / (1 + Math.abs(y))
    worst = Math.max(worst, Number.isNaN(d) ? Number.POSITIVE_INFINITY : d)
  }
  return worst
}

export function upload(backend: CpuBackend, data: TypedArray | number[], dtype: DType = "f32"): DeviceBuffer {
  if (!Array.isArray(data)) return backend.upload(data, dtype)
  const values = hostArray(dtype, data.length)
  values.set(data)
  return backend.upload(values, dtype)
}
