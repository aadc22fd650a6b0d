/**
 * Runs the WebAssembly of a `map` over buffers: at once where all of them lie in the heap, else in parts whose operands are copied to scratch.
 * A part is a range of one loop, with one turn of the loops around it and all of those inside; every operand's elements in it are a run.
 */
import { bytesPerElement, type DeviceBuffer, type DType, type Expr, type Layout } from "@peftjs/core"
import { addressOf, dataOf } from "./buffers.ts"
import type { Heap } from "./heap.ts"
import type { MapRun } from "./map.ts"
import { type MapType, mapFunction, mapImports } from "./map-code.ts"
import { blockElements, heapView } from "./staging.ts"

export function compileMap(
  heap: Heap,
  exprs: readonly Expr[],
  dtypes: readonly DType[],
  scalarCount: number,
  dtype: MapType,
  layout: Layout,
): MapRun {
  const { map } = heap.load([mapFunction(exprs, dtypes, scalarCount, dtype, layout)], mapImports)
  const run = map as (...args: number[]) => void
  return (outs, inputs, scalars, { sizes, strides }) => {
    const steps = strides.flatMap((s, k) => s.map((stride) => stride * bytesPerElement[dtypes[k] as DType]))
    const buffers = [...outs, ...inputs]
    const addresses = buffers.map(addressOf)
    if (addresses.every((a) => a !== undefined)) {
      run(...addresses, ...sizes, ...sizes.map(() => 0), ...steps, ...scalars)
      return
    }
    const outStrides = sizes.map((_, l) => sizes.slice(l + 1).reduce((a, b) => a * b, 1))
    const moves = [...outs.map(() => outStrides), ...strides]
    forEachPart(sizes, outStrides, (first, counts, loop) => {
      const runs = buffers.map((buffer, i): Run => {
        const stride = moves[i] as readonly number[]
        const start = first.reduce((sum, at, l) => sum + at * (stride[l] as number), 0)
        return { buffer, start, length: lengthOf(stride, counts, loop), inside: addresses[i] }
      })
      inScratch(heap, runs, outs.length, (places) => run(...places, ...counts, ...first, ...steps, ...scalars))
    })
  }
}

/** Visits parts of at most `blockElements` outputs, or of a single element of the innermost loop, in the order of the output. */
function forEachPart(
  sizes: readonly number[],
  outStrides: readonly number[],
  visit: (first: readonly number[], counts: readonly number[], loop: number) => void,
): void {
  const loop = outStrides.findIndex((inner) => inner <= blockElements)
  const chunk = Math.max(1, Math.floor(blockElements / (outStrides[loop] as number)))
  const first = sizes.map(() => 0)
  const walk = (l: number): void => {
    const size = sizes[l] as number
    const step = l === loop ? chunk : 1
    for (let at = 0; at < size; at += step) {
      first[l] = at
      const count = Math.min(step, size - at)
      if (l < loop) walk(l + 1)
      else visit(first, [...sizes.slice(0, l).map(() => 1), count, ...sizes.slice(l + 1)], loop)
    }
  }
  walk(0)
}

/** Elements of an operand from the first to the last that a part reads. */
function lengthOf(strides: readonly number[], counts: readonly number[], loop: number): number {
  return 1 + strides.reduce((sum, stride, l) => sum + (l < loop ? 0 : stride * ((counts[l] as number) - 1)), 0)
}

interface Run {
  readonly buffer: DeviceBuffer
  readonly start: number
  readonly length: number
  /** Address of the buffer, if it lies in the heap. */
  readonly inside: number | undefined
}

/** Copies the runs that lie outside the heap there, but for the first ones, which are written: those are copied back. */
function inScratch(heap: Heap, runs: readonly Run[], written: number, body: (places: readonly number[]) => void): void {
  const align = 64
  const bytes = runs.map(({ inside, length, buffer: { dtype } }) =>
    inside === undefined ? Math.ceil((length * bytesPerElement[dtype] + 16) / align) * align : 0,
  )
  heap.scratch(
    bytes.reduce((a, b) => a + b, 0),
    (scratch) => {
      const places = runs.map(({ inside, start, buffer: { dtype } }, i) =>
        inside === undefined
          ? bytes.slice(0, i).reduce((a, b) => a + b, scratch)
          : inside + start * bytesPerElement[dtype],
      )
      const view = ({ buffer, length }: Run, i: number) => heapView(heap, buffer.dtype, places[i] as number, length)
      runs.forEach((run, i) => {
        const { inside, buffer, start, length } = run
        if (i >= written && inside === undefined) view(run, i).set(dataOf(buffer).subarray(start, start + length))
      })
      body(places)
      runs.slice(0, written).forEach((out, i) => {
        if (out.inside === undefined) dataOf(out.buffer).set(view(out, i), out.start)
      })
    },
  )
}
