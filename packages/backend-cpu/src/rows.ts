/** Rows of a table by number, and their gradient. */
import { type DeviceBuffer, invariant } from "@peftjs/core"
import { dataOf, f32Of, type Memory } from "./buffers.ts"
import { widen } from "./half.ts"

export interface RowDims {
  readonly rows: number
  readonly width: number
  readonly n: number
}

export function createGather(memory: Memory): (table: DeviceBuffer, ids: DeviceBuffer, dims: RowDims) => DeviceBuffer {
  return (table, ids, { rows, width, n }) => {
    const data = dataOf(table)
    const which = dataOf(ids)
    invariant(table.length === rows * width && ids.length === n, "backend-cpu: gather's operands do not have its sizes")
    const out = memory.alloc("f32", n * width)
    for (let i = 0; i < n; i++) {
      const start = (which[i] as number) * width
      widen(data, table.dtype, start, width, out.data.subarray(i * width, (i + 1) * width))
    }
    return out
  }
}

export function createScatterAdd(memory: Memory): (x: DeviceBuffer, ids: DeviceBuffer, dims: RowDims) => DeviceBuffer {
  return (x, ids, { rows, width, n }) => {
    const data = f32Of(x)
    const which = dataOf(ids)
    invariant(x.length === n * width && ids.length === n, "backend-cpu: scatterAdd's operands do not have its sizes")
    const out = memory.alloc("f32", rows * width)
    const target = out.data
    target.fill(0)
    for (let i = 0; i < n; i++) {
      const to = (which[i] as number) * width
      const from = i * width
      for (let j = 0; j < width; j++) (target[to + j] as number) += data[from + j] as number
    }
    return out
  }
}
