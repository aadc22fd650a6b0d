/** Root-mean-square normalisation of rows (Zhang & Sennrich 2019) and its gradient, each in two passes over a row. */
import { type DeviceBuffer, invariant } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import type { Memory } from "./buffers.ts"

export interface RmsDims {
  readonly rows: number
  readonly n: number
  readonly eps: number
}

/** Σ x·y over one row; four sums, because the engine does not unroll loops and additions wait for each other. */
function dot(x: Float32Array, y: Float32Array, start: number, n: number): number {
  const end = start + n
  const blocked = end - (n & 3)
  let a = 0
  let b = 0
  let c = 0
  let d = 0
  let i = start
  for (; i < blocked; i += 4) {
    a += (x[i] as number) * (y[i] as number)
    b += (x[i + 1] as number) * (y[i + 1] as number)
    c += (x[i + 2] as number) * (y[i + 2] as number)
    d += (x[i + 3] as number) * (y[i + 3] as number)
  }
  for (; i < end; i++) a += (x[i] as number) * (y[i] as number)
  return a + b + (c + d)
}

/** 1 / sqrt(mean(x²) + eps) of one row. */
function inverseRms(x: Float32Array, start: number, n: number, eps: number): number {
  return 1 / Math.sqrt(dot(x, x, start, n) / n + eps)
}

function check(x: DeviceBuffer, weight: DeviceBuffer, { rows, n }: RmsDims): void {
  invariant(
    x.length === rows * n && weight.length === n,
    `backend-cpu: rmsNorm of ${x.length} elements with ${weight.length} weights as [${rows}, ${n}]`,
  )
}

export function createRmsNorm(memory: Memory): (x: DeviceBuffer, weight: DeviceBuffer, dims: RmsDims) => DeviceBuffer {
  return (x, weight, dims) => {
    check(x, weight, dims)
    const { rows, n, eps } = dims
    const data = asF32(x)
    const w = asF32(weight)
    const out = memory.alloc("f32", rows * n)
    const y = out.data
    for (let r = 0; r < rows; r++) {
      const start = r * n
      const scale = inverseRms(data, start, n, eps)
      for (let i = 0; i < n; i++) y[start + i] = (data[start + i] as number) * scale * (w[i] as number)
    }
    return out
  }
}

/** dx = s·(w·dy) - x · s³/n · Σ x·w·dy with s = 1 / sqrt(mean(x²) + eps). */
export function createRmsNormBackward(
  memory: Memory,
): (x: DeviceBuffer, weight: DeviceBuffer, dy: DeviceBuffer, dims: RmsDims) => DeviceBuffer {
  return (x, weight, dy, dims) => {
    check(x, weight, dims)
    invariant(dy.length === x.length, "backend-cpu: rmsNormBackward's dy is not as long as x")
    const { rows, n, eps } = dims
    const data = asF32(x)
    const w = asF32(weight)
    const g = asF32(dy)
    const out = memory.alloc("f32", rows * n)
    const dx = out.data
    for (let r = 0; r < rows; r++) {
      const start = r * n
      const scale = inverseRms(data, start, n, eps)
      let dot = 0
      for (let i = 0; i < n; i++) dot += (data[start + i] as number) * (w[i] as number) * (g[start + i] as number)
      const along = (dot * scale * scale * scale) / n
      for (let i = 0; i < n; i++) {
        dx[start + i] = (g[start + i] as number) * (w[i] as number) * scale - (data[start + i] as number) * along
      }
    }
    return out
  }
}
