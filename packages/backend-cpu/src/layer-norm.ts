/** Layer normalisation of rows (Ba et al. 2016) and its gradient. */
import { type DeviceBuffer, type FusedKernels, invariant } from "@peftjs/core"
import type { Memory } from "./buffers.ts"
import type { Heap } from "./heap.ts"
import { normalising } from "./norm.ts"

type Dims = Parameters<FusedKernels["layerNorm"]>[3]

function check(x: DeviceBuffer, others: readonly (readonly [DeviceBuffer, number])[], { rows, n }: Dims): void {
  invariant(
    x.length === rows * n && others.every(([other, length]) => other.length === length),
    `backend-cpu: layerNorm of ${x.length} elements as [${rows}, ${n}] with ${others.map(([{ length }]) => length)}`,
  )
}

/** y = (x - mean) · s · w + b with s = 1 / sqrt(variance + eps). */
export function createLayerNorm(memory: Memory, heap: Heap): FusedKernels["layerNorm"] {
  const run = normalising(memory, heap, "layerNorm")
  return (x, weight, bias, dims) => {
    const { n } = dims
    check(
      x,
      [
        [weight, n],
        [bias, n],
      ],
      dims,
    )
    return run([x], [weight, bias], [], dims)
  }
}

/** dx = s · (w·dy - mean(w·dy) - x̂ · mean(w·dy·x̂)) with s = 1 / sqrt(variance + eps) and x̂ = (x - mean) · s. */
export function createLayerNormBackward(memory: Memory, heap: Heap): FusedKernels["layerNormBackward"] {
  const run = normalising(memory, heap, "layerNormBackward")
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
    return run([x], [weight], [dy], dims)
  }
}
