/** What the four kernels of norm-code.ts have in common: where their operands lie. */
import type { DeviceBuffer } from "@peftjs/core"
import type { Memory } from "./buffers.ts"
import { type Heap, perHeap } from "./heap.ts"
import { normFunctions } from "./norm-code.ts"
import { overRows, type Part } from "./staging.ts"

const functions = perHeap((heap) => heap.load(normFunctions()))

type Name = "rmsNorm" | "rmsNormBackward" | "layerNorm" | "layerNormBackward"

/** Runs a kernel whose operands are, in this order: arrays of rows, vectors that all rows share, arrays of rows again, the result. */
export function normalising(
  { alloc }: Memory,
  heap: Heap,
  name: Name,
): (
  before: readonly DeviceBuffer[],
  shared: readonly DeviceBuffer[],
  after: readonly DeviceBuffer[],
  dims: { readonly rows: number; readonly n: number; readonly eps: number },
) => DeviceBuffer {
  const kernel = functions(heap)[name] as (...args: number[]) => number
  return (before, shared, after, { rows, n, eps }) => {
    const out = alloc("f32", rows * n)
    const read = (buffer: DeviceBuffer, width: number): Part => ({ buffer, width, access: "read" })
    const parts = [
      ...before.map((buffer) => read(buffer, n)),
      ...shared.map((buffer) => read(buffer, 0)),
      ...after.map((buffer) => read(buffer, n)),
      { buffer: out, width: n, access: "write" } as const,
    ]
    overRows(heap, rows, parts, (count, addresses) => kernel(...addresses, count, n, eps))
    return out
  }
}
