/** Sums and maxima over the middle axis of [outer, n, inner]. Sums are kept in f64: many short terms would lose digits in f32. */
import { type Axis, type DeviceBuffer, invariant } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import { addressOf, type Memory } from "./buffers.ts"
import { perHeap } from "./heap.ts"
import { type Reduction, reduceColumns, reduceRows } from "./reduce-code.ts"
import { overRows } from "./staging.ts"

/** Columns handled at a time when inner > 1: their accumulators stay in the first-level cache. */
const columnBlock = 1024

/** Elements that are copied to scratch at a time where an operand lies outside the heap; larger ones are reduced where they lie. */
const stagedElements = 2 ** 20

const kernels = perHeap((heap) =>
  heap.load((["sum", "max"] as const).flatMap((kind) => [reduceRows(kind), reduceColumns(kind)])),
)

export function createReduce(memory: Memory): (op: Reduction, x: DeviceBuffer, axis: Axis) => DeviceBuffer {
  const accumulators = new Float64Array(columnBlock)
  const { heap } = memory
  return (op, x, { outer, n, inner }) => {
    invariant(
      x.length === outer * n * inner,
      `backend-cpu: reduce of ${x.length} elements as [${outer}, ${n}, ${inner}]`,
    )
    const out = memory.alloc("f32", outer * inner)
    const direct = x.dtype === "f32" && addressOf(x) !== undefined && addressOf(out) !== undefined
    if (heap && inner > 0 && (direct || (n + 1) * inner <= stagedElements)) {
      const parts = [
        { buffer: x, width: n * inner, access: "read" },
        { buffer: out, width: inner, access: "write" },
      ] as const
      const reduce = kernels(heap)
      overRows(heap, outer, parts, (rows, [from, to]) => {
        if (inner === 1) reduce[`${op}Rows`]?.(from as number, to as number, rows, n)
        else reduce[`${op}Columns`]?.(from as number, to as number, rows, n, inner)
      })
      return out
    }
    const data = asF32(x)
    if (inner === 1) (op === "sum" ? sumRows : maxRows)(data, out.data, outer, n)
    else columns(op, data, out.data, outer, n, inner, accumulators)
    return out
  }
}

function sumRows(x: Float32Array, out: Float32Array, rows: number, n: number): void {
  for (let r = 0; r < rows; r++) {
    const start = r * n
    const end = start + n
    const blocked = start + (n & ~3)
    let a = 0
    let b = 0
    let c = 0
    let d = 0
    let i = start
    for (; i < blocked; i += 4) {
      a += x[i] as number
      b += x[i + 1] as number
      c += x[i + 2] as number
      d += x[i + 3] as number
    }
    for (; i < end; i++) a += x[i] as number
    out[r] = a + b + (c + d)
  }
}

function maxRows(x: Float32Array, out: Float32Array, rows: number, n: number): void {
  for (let r = 0; r < rows; r++) {
    let best = Number.NEGATIVE_INFINITY
    const end = (r + 1) * n
    for (let i = r * n; i < end; i++) best = Math.max(best, x[i] as number)
    out[r] = best
  }
}

function columns(
  op: "sum" | "max",
  x: Float32Array,
  out: Float32Array,
  outer: number,
  n: number,
  inner: number,
  accumulators: Float64Array,
): void {
  for (let r = 0; r < outer; r++) {
    for (let first = 0; first < inner; first += columnBlock) {
      const width = Math.min(columnBlock, inner - first)
      accumulators.fill(op === "sum" ? 0 : Number.NEGATIVE_INFINITY, 0, width)
      for (let k = 0; k < n; k++) {
        const start = (r * n + k) * inner + first
        if (op === "sum") for (let j = 0; j < width; j++) (accumulators[j] as number) += x[start + j] as number
        else
          for (let j = 0; j < width; j++) accumulators[j] = Math.max(accumulators[j] as number, x[start + j] as number)
      }
      const target = r * inner + first
      for (let j = 0; j < width; j++) out[target + j] = accumulators[j] as number
    }
  }
}
