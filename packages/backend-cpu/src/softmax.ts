/** Softmax of rows, alone or with its normaliser. */
import { type FusedKernels, invariant } from "@peftjs/core"
import type { Memory } from "./buffers.ts"
import { type Heap, perHeap } from "./heap.ts"
import { softmaxFunctions } from "./softmax-code.ts"
import { overRows } from "./staging.ts"

type Run = (...args: number[]) => number

/** What softmax-code.ts makes, on a heap. */
export const softmaxKernels: (
  heap: Heap,
) => Readonly<Record<"softmax" | "logSumExp" | "visibleSoftmax" | "softmaxBackward", Run>> = perHeap(
  (heap) => heap.load(softmaxFunctions()) as never,
)

export function createSoftmax({ alloc }: Memory, heap: Heap): FusedKernels["softmax"] {
  const { softmax } = softmaxKernels(heap)
  return (x, rows, n) => {
    invariant(x.length === rows * n, `backend-cpu: softmax of ${x.length} elements as [${rows}, ${n}]`)
    const out = alloc("f32", x.length)
    const parts = [
      { buffer: x, width: n, access: "read" },
      { buffer: out, width: n, access: "write" },
    ] as const
    overRows(heap, rows, parts, (count, [from, to]) => softmax(from as number, to as number, count, n, 0))
    return out
  }
}

export function createSoftmaxLogSumExp({ alloc }: Memory, heap: Heap): FusedKernels["softmaxLogSumExp"] {
  const { softmax } = softmaxKernels(heap)
  return (x, rows, n) => {
    invariant(x.length === rows * n && n > 0, `backend-cpu: softmax of ${x.length} elements as [${rows}, ${n}]`)
    const [out, sums] = [alloc("f32", x.length), alloc("f32", rows)]
    const parts = [
      { buffer: x, width: n, access: "read" },
      { buffer: out, width: n, access: "write" },
      { buffer: sums, width: 1, access: "write" },
    ] as const
    overRows(heap, rows, parts, (count, [from, to, at]) =>
      softmax(from as number, to as number, count, n, at as number),
    )
    return [out, sums]
  }
}
