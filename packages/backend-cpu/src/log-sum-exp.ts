/** log Σ exp of rows, relative to each row's largest element. */
import { type FusedKernels, invariant } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import type { Memory } from "./buffers.ts"
import { fastExp } from "./exp.ts"

export function createLogSumExp(memory: Memory): FusedKernels["logSumExp"] {
  return (x, rows, n) => {
    invariant(x.length === rows * n, `backend-cpu: logSumExp of ${x.length} elements as [${rows}, ${n}]`)
    const data = asF32(x)
    const out = memory.alloc("f32", rows)
    for (let r = 0; r < rows; r++) out.data[r] = logSumExpOf(data, r * n, (r + 1) * n)
    return out
  }
}

/** -Infinity for a row that is empty or holds nothing else. Four sums, because additions wait for each other. */
function logSumExpOf(x: Float32Array, start: number, end: number): number {
  let max = Number.NEGATIVE_INFINITY
  for (let i = start; i < end; i++) {
    const value = x[i] as number
    if (value > max) max = value
  }
  // A NaN is greater than nothing; beside other values it shows in their sum.
  if (max === Number.NEGATIVE_INFINITY) return x.subarray(start, end).some(Number.isNaN) ? Number.NaN : max
  const blocked = end - ((end - start) & 3)
  let [a, b, c, d] = [0, 0, 0, 0]
  let i = start
  for (; i < blocked; i += 4) {
    a += fastExp((x[i] as number) - max)
    b += fastExp((x[i + 1] as number) - max)
    c += fastExp((x[i + 2] as number) - max)
    d += fastExp((x[i + 3] as number) - max)
  }
  for (; i < end; i++) a += fastExp((x[i] as number) - max)
  return max + Math.log(a + b + (c + d))
}
