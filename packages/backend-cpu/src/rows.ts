/** Rows of a table by number, and their gradient. */
import { type DeviceBuffer, invariant } from "@peftjs/core"
import { addressOf, dataOf, f32Of, type Memory } from "./buffers.ts"
import { widen } from "./half.ts"
import { perHeap } from "./heap.ts"
import { heapCopies } from "./heap-copy.ts"
import { bring } from "./staging.ts"
import { advance, times } from "./wasm-loop.ts"
import { wasmFunction } from "./wasm-module.ts"
import { f32, f32x4, i32, op, v128 } from "./wasm-op.ts"

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
    const to = addressOf(out)
    for (let i = 0; i < n; i++) {
      const start = (which[i] as number) * width
      // A row's last vector may go into the next one, which comes later.
      if (memory.heap && to !== undefined) bring(memory.heap, table, start, width, to + 4 * i * width)
      else widen(data, table.dtype, start, width, out.data.subarray(i * width, (i + 1) * width))
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
    const [from, to] = [addressOf(x), addressOf(out)]
    if (memory.heap && from !== undefined && to !== undefined) {
      heapCopies(memory.heap).zero(to, 4 * rows * width)
      const { addRow } = kernels(memory.heap)
      for (let i = 0; i < n; i++) addRow?.(to + 4 * (which[i] as number) * width, from + 4 * i * width, width)
      return out
    }
    const target = out.data
    target.fill(0)
    for (let i = 0; i < n; i++) {
      const [row, start] = [(which[i] as number) * width, i * width]
      for (let j = 0; j < width; j++) (target[row + j] as number) += data[start + j] as number
    }
    return out
  }
}

/** addRow(to, from, n) adds n elements, and touches nothing behind them: the row there may be complete. */
const kernels = perHeap((heap) =>
  heap.load([
    wasmFunction("addRow", { to: "i32", from: "i32", n: "i32" }, (scope) => {
      const { to, from, n } = scope.param
      const left = scope.local("i32")
      const [x, y] = [op.get(to), op.get(from)]
      return [
        ...op.set(left, i32.shrU(op.get(n), i32.const(2))),
        ...times(left, [
          ...v128.store(x, f32x4.add(v128.load(x), v128.load(y))),
          ...advance(to, 16),
          ...advance(from, 16),
        ]),
        ...op.set(left, i32.and(op.get(n), i32.const(3))),
        ...times(left, [...f32.store(x, f32.add(f32.load(x), f32.load(y))), ...advance(to, 4), ...advance(from, 4)]),
      ]
    }),
  ]),
)
