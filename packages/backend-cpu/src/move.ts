/** Kernels that move elements without looking at them: permute, slice, concat. Any element type. */
import {
  type Axis,
  bytesPerElement,
  type DeviceBuffer,
  invariant,
  permutedLoops,
  type Shape,
  sizeOf,
  type TypedArray,
} from "@peftjs/core"
import { addressOf, type CpuBuffer, dataOf, type Memory } from "./buffers.ts"
import { heapCopies } from "./heap-copy.ts"

/** Side of the square blocks of a transposition: both sides' cache lines stay in the first-level cache. */
const block = 32

/** Runs shorter than this are copied element by element; a call that copies costs about as much. */
const shortRun = 16

export function createPermute(
  memory: Memory,
): (x: DeviceBuffer, shape: Shape, axes: readonly number[]) => DeviceBuffer {
  return (x, shape, axes) => {
    const data = dataOf(x)
    invariant(x.length === sizeOf(shape), `backend-cpu: permute of ${x.length} elements as [${shape}]`)
    const out = memory.alloc(x.dtype, x.length)
    if (x.length === 0) return out
    const { sizes, strides } = permutedLoops(shape, axes)
    if (strides.at(-1) === 1) {
      const n = sizes.at(-1) as number
      // The loop around the runs is one copy of rows.
      const [rows, step] = [sizes.at(-2) ?? 1, strides.at(-2) ?? 0]
      walk(sizes.slice(0, -2), [strides.slice(0, -2)], ([from], o) =>
        copyRows(memory, x, from as number, step, out, o * rows * n, n, rows, n),
      )
    } else permute(data, out.data, sizes, strides)
    return out
  }
}

function permute(x: TypedArray, out: TypedArray, sizes: readonly number[], strides: readonly number[]): void {
  const depth = sizes.length
  const n = sizes[depth - 1] as number
  // The loop along which the input is contiguous and the innermost one make a matrix to transpose.
  const along = strides.indexOf(1)
  const m = sizes[along] as number
  const outStrides = sizes.map((_, l) => sizes.slice(l + 1).reduce((a, b) => a * b, 1))
  const rest = sizes.map((_, l) => l).filter((l) => l !== along && l !== depth - 1)
  const step = strides[depth - 1] as number
  const outStep = outStrides[along] as number
  walk(
    rest.map((l) => sizes[l] as number),
    [rest.map((l) => strides[l] as number), rest.map((l) => outStrides[l] as number)],
    ([from, to]) => transpose(x, from as number, step, out, to as number, outStep, m, n),
  )
}

/** out[to + i·outStep + j] = x[from + j·step + i] for i < m, j < n. */
function transpose(
  x: TypedArray,
  from: number,
  step: number,
  out: TypedArray,
  to: number,
  outStep: number,
  m: number,
  n: number,
): void {
  for (let j0 = 0; j0 < n; j0 += block) {
    const j1 = Math.min(n, j0 + block)
    for (let i0 = 0; i0 < m; i0 += block) {
      const i1 = Math.min(m, i0 + block)
      for (let i = i0; i < i1; i++) {
        const o = to + i * outStep
        const source = from + i
        for (let j = j0; j < j1; j++) out[o + j] = x[source + j * step] as number
      }
    }
  }
}

/** Calls `visit` with the positions that each list of strides gives, for every combination of the loops, and the running number. */
function walk(
  sizes: readonly number[],
  strides: readonly (readonly number[])[],
  visit: (positions: readonly number[], count: number) => void,
): void {
  const turn = sizes.map(() => 0)
  const at = strides.map(() => 0)
  for (let count = 0; ; count++) {
    visit(at, count)
    let l = sizes.length - 1
    for (; l >= 0; l--) {
      const back = turn[l] === (sizes[l] as number) - 1
      const moved = back ? -(turn[l] as number) : 1
      turn[l] = (turn[l] as number) + moved
      for (let k = 0; k < at.length; k++) at[k] = (at[k] as number) + moved * (strides[k]?.[l] as number)
      if (!back) break
    }
    if (l < 0) return
  }
}

/** `rows` runs of `n` elements, whose beginnings lie `fromStep` and `toStep` elements apart. */
function copyRows(
  { heap }: Memory,
  x: DeviceBuffer,
  from: number,
  fromStep: number,
  out: CpuBuffer,
  to: number,
  toStep: number,
  rows: number,
  n: number,
): void {
  const [source, target, size] = [addressOf(x), addressOf(out), bytesPerElement[x.dtype]]
  if (heap && source !== undefined && target !== undefined && n >= shortRun) {
    const [at, step] = [
      [target + to * size, source + from * size],
      [toStep * size, fromStep * size],
    ] as const
    heapCopies(heap).copyRows(at[0], at[1], n * size, rows, ...step)
    return
  }
  const [data, copy] = [dataOf(x), dataOf(out)]
  for (let r = 0, i = from, o = to; r < rows; r++, i += fromStep, o += toStep) {
    if (n < shortRun) for (let j = 0; j < n; j++) copy[o + j] = data[i + j] as number
    else copy.set(data.subarray(i, i + n), o)
  }
}

export function createSlice(
  memory: Memory,
): (x: DeviceBuffer, axis: Axis & { readonly start: number; readonly length: number }) => DeviceBuffer {
  return (x, { outer, n, inner, start, length }) => {
    invariant(
      x.length === outer * n * inner,
      `backend-cpu: slice of ${x.length} elements as [${outer}, ${n}, ${inner}]`,
    )
    invariant(start >= 0 && start + length <= n, `backend-cpu: slice [${start}, ${start + length}) of an axis of ${n}`)
    const out = memory.alloc(x.dtype, outer * length * inner)
    const run = length * inner
    copyRows(memory, x, start * inner, n * inner, out, 0, run, outer, run)
    return out
  }
}

export function createConcat(
  memory: Memory,
): (xs: readonly DeviceBuffer[], axis: { outer: number; ns: readonly number[]; inner: number }) => DeviceBuffer {
  return (xs, { outer, ns, inner }) => {
    const first = xs[0]
    invariant(first !== undefined && xs.length === ns.length, "backend-cpu: concat needs one size per operand")
    invariant(
      xs.every((x) => x.dtype === first.dtype),
      "backend-cpu: concat of different element types",
    )
    const row = ns.reduce((a, b) => a + b, 0) * inner
    const out = memory.alloc(first.dtype, outer * row)
    let column = 0
    xs.forEach((x, i) => {
      const run = (ns[i] as number) * inner
      invariant(
        x.length === outer * run,
        `backend-cpu: concat of ${x.length} elements as [${outer}, ${ns[i]}, ${inner}]`,
      )
      copyRows(memory, x, 0, run, out, column, row, outer, run)
      column += run
    })
    return out
  }
}
