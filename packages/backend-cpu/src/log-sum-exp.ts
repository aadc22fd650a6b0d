/** log Σ exp of rows, relative to each row's largest element. */
import { type FusedKernels, invariant } from "@peftjs/core"
import type { Memory } from "./buffers.ts"
import type { Heap } from "./heap.ts"
import { softmaxKernels } from "./softmax.ts"
import { overRows } from "./staging.ts"

export function createLogSumExp({ alloc }: Memory, heap: Heap): FusedKernels["logSumExp"] {
  const { logSumExp } = softmaxKernels(heap)
  return (x, rows, n) => {
    invariant(x.length === rows * n, `backend-cpu: logSumExp of ${x.length} elements as [${rows}, ${n}]`)
    const out = alloc("f32", rows)
    const parts = [
      { buffer: x, width: n, access: "read" },
      { buffer: out, width: 1, access: "write" },
    ] as const
    overRows(heap, rows, parts, (count, [from, to]) => logSumExp(from as number, to as number, count, n))
    return out
  }
}
