/** Softmax of rows, also of rows of which only a part is visible. */
import { type DeviceBuffer, invariant } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import type { Memory } from "./buffers.ts"
import { fastExp } from "./exp.ts"

export function createSoftmax(memory: Memory): (x: DeviceBuffer, rows: number, n: number) => DeviceBuffer {
  return (x, rows, n) => {
    invariant(x.length === rows * n, `backend-cpu: softmax of ${x.length} elements as [${rows}, ${n}]`)
    const out = memory.alloc("f32", x.length)
    out.data.set(asF32(x))
    for (let r = 0; r < rows; r++) softmaxRow(out.data, r * n, (r + 1) * n)
    return out
  }
}

/** Replaces x[start…end-1] by its softmax. Four elements per turn, because the engine does not unroll loops. */
export function softmaxRow(x: Float32Array, start: number, end: number): void {
  const blocked = end - ((end - start) & 3)
  let max = Number.NEGATIVE_INFINITY
  for (let i = start; i < end; i++) {
    const value = x[i] as number
    if (value > max) max = value
  }
  let even = 0
  let odd = 0
  let i = start
  for (; i < blocked; i += 4) {
    const a = fastExp((x[i] as number) - max)
    const b = fastExp((x[i + 1] as number) - max)
    const c = fastExp((x[i + 2] as number) - max)
    const d = fastExp((x[i + 3] as number) - max)
    x[i] = a
    x[i + 1] = b
    x[i + 2] = c
    x[i + 3] = d
    even += a + c
    odd += b + d
  }
  for (; i < end; i++) {
    const a = fastExp((x[i] as number) - max)
    x[i] = a
    even += a
  }
  const scale = 1 / (even + odd)
  for (i = start; i < blocked; i += 4) {
    x[i] = (x[i] as number) * scale
    x[i + 1] = (x[i + 1] as number) * scale
    x[i + 2] = (x[i + 2] as number) * scale
    x[i + 3] = (x[i + 3] as number) * scale
  }
  for (; i < end; i++) x[i] = (x[i] as number) * scale
}
