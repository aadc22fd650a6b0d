/** Root-mean-square normalisation of rows (Zhang & Sennrich 2019) and its gradient. */
import { type DeviceBuffer, type FusedKernels, invariant } from "@peftjs/core"
import type { Memory } from "./buffers.ts"
import type { Heap } from "./heap.ts"
import { normalising } from "./norm.ts"

export interface RmsDims {
  readonly rows: number
  readonly n: number
  readonly eps: number
}

function check(x: DeviceBuffer, weight: DeviceBuffer, { rows, n }: RmsDims): void {
  invariant(
    x.length === rows * n && weight.length === n,
    `backend-cpu: rmsNorm of ${x.length} elements with ${weight.length} weights as [${rows}, ${n}]`,
  )
}

/** y = x·s·w with s = 1 / sqrt(mean(x²) + eps). */
export function createRmsNorm(memory: Memory, heap: Heap): FusedKernels["rmsNorm"] {
  const run = normalising(memory, heap, "rmsNorm")
  return (x, weight, dims) => {
    check(x, weight, dims)
    return run([x], [weight], [], dims)
  }
}

/** dx = s·(w·dy) - x · s³/n · Σ x·w·dy with s = 1 / sqrt(mean(x²) + eps). */
export function createRmsNormBackward(memory: Memory, heap: Heap): FusedKernels["rmsNormBackward"] {
  const run = normalising(memory, heap, "rmsNormBackward")
  return (x, weight, dy, dims) => {
    check(x, weight, dims)
    invariant(dy.length === x.length, "backend-cpu: rmsNormBackward's dy is not as long as x")
    return run([x], [weight], [dy], dims)
  }
}
