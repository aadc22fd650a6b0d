/** Layer normalisation of rows (Ba et al. 2016) and its gradient. Mean and variance are summed in f64. */
import { type DeviceBuffer, type FusedKernels, invariant } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import type { Memory } from "./buffers.ts"

type Dims = Parameters<FusedKernels["layerNorm"]>[3]

function check(x: DeviceBuffer, others: readonly (readonly [DeviceBuffer, number])[], { rows, n }: Dims): void {
  invariant(
    x.length === rows * n && others.every(([other, length]) => other.length === length),
    `backend-cpu: layerNorm of ${x.length} elements as [${rows}, ${n}] with ${others.map(([{ length }]) => length)}`,
  )
}

/** Mean and 1 / sqrt(variance + eps) of one row. */
function moments(x: Float32Array, start: number, { n, eps }: Dims): readonly [mean: number, scale: number] {
  let sum = 0
  for (let i = start; i < start + n; i++) sum += x[i] as number
  const mean = sum / n
  let squares = 0
  for (let i = start; i < start + n; i++) squares += ((x[i] as number) - mean) ** 2
  return [mean, 1 / Math.sqrt(squares / n + eps)]
}

export function createLayerNorm(memory: Memory): FusedKernels["layerNorm"] {
  return (x, weight, bias, dims) => {
    const { rows, n } = dims
    check(
      x,
      [
        [weight, n],
        [bias, n],
      ],
      dims,
    )
    const [data, w, b] = [asF32(x), asF32(weight), asF32(bias)]
    const out = memory.alloc("f32", rows * n)
    const y = out.data
    for (let start = 0; start < rows * n; start += n) {
      const [mean, scale] = moments(data, start, dims)
      for (let i = 0; i < n; i++)
        y[start + i] = ((data[start + i] as number) - mean) * scale * (w[i] as number) + (b[i] as number)
    }
    return out
  }
}

/** dx = s · (w·dy - mean(w·dy) - x̂ · mean(w·dy·x̂)) with s = 1 / sqrt(variance + eps) and x̂ = (x - mean) · s. */
export function createLayerNormBackward(memory: Memory): FusedKernels["layerNormBackward"] {
  return (x, weight, dy, dims) => {
    const { rows, n } = dims
    check(
      x,
      [
        [weight, n],
        [dy, rows * n],
      ],
      dims,
    )
    const [data, w, g] = [asF32(x), asF32(weight), asF32(dy)]
    const out = memory.alloc("f32", rows * n)
    const dx = out.data
    for (let start = 0; start < rows * n; start += n) {
      const [mean, scale] = moments(data, start, dims)
      let [sum, along] = [0, 0]
      for (let i = 0; i < n; i++) {
        const scaled = (w[i] as number) * (g[start + i] as number)
        sum += scaled
        along += scaled * ((data[start + i] as number) - mean) * scale
      }
      for (let i = 0; i < n; i++) {
        const normal = ((data[start + i] as number) - mean) * scale
        dx[start + i] = scale * ((w[i] as number) * (g[start + i] as number) - sum / n - (normal * along) / n)
      }
    }
    return out
  }
}
