/** Kernels that move elements without looking at them: permute, slice, concat. Any element type. */
import { type Axis, type DeviceBuffer, invariant, type Shape, sizeOf, type TypedArray } from "@peftjs/core"
import { dataOf, type Memory } from "./buffers.ts"

/** Side of the square blocks of a transposition: both sides' cache lines stay in the first-level cache. */
const block = 32

/** Runs shorter than this are copied element by element; a call to `set` costs about as much. */
const shortRun = 16

export function createPermute(
  memory: Memory,
): (x: DeviceBuffer, shape: Shape, axes: readonly number[]) => DeviceBuffer {
  return (x, shape, axes) => {
    const data = dataOf(x)
    invariant(x.length === sizeOf(shape), `backend-cpu: permute of ${x.length} elements as [${shape}]`)
    const out = memory.alloc(x.dtype, x.length)
    if (x.length > 0) permute(data, out.data, shape, axes)
    return out
  }
}

function permute(x: TypedArray, out: TypedArray, shape: Shape, axes: readonly number[]): void {
  const { sizes, strides } = loops(shape, axes)
  const depth = sizes.length
  if (depth === 0 || (depth === 1 && strides[0] === 1)) {
    out.set(x)
    return
  }
  const n = sizes[depth - 1] as number
  if (strides[depth - 1] === 1) {
    walk(sizes.slice(0, -1), [strides.slice(0, -1)], ([from], o) => copyRun(x, from as number, n, out, o * n))
    return
  }
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

/** The output's axes as loops over the input: size-1 axes dropped, neighbours that stay neighbours joined. */
function loops(shape: Shape, axes: readonly number[]): { sizes: number[]; strides: number[] } {
  const inputStrides = shape.map((_, a) => sizeOf(shape.slice(a + 1)))
  const sizes: number[] = []
  const strides: number[] = []
  for (const axis of axes) {
    const size = shape[axis] as number
    const stride = inputStrides[axis] as number
    if (size === 1) continue
    const last = sizes.length - 1
    if (last >= 0 && strides[last] === stride * size) {
      sizes[last] = (sizes[last] as number) * size
      strides[last] = stride
    } else {
      sizes.push(size)
      strides.push(stride)
    }
  }
  return { sizes, strides }
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

function copyRun(x: TypedArray, from: number, n: number, out: TypedArray, to: number): void {
  if (n < shortRun) for (let i = 0; i < n; i++) out[to + i] = x[from + i] as number
  else out.set(x.subarray(from, from + n), to)
}

export function createSlice(
  memory: Memory,
): (x: DeviceBuffer, axis: Axis & { readonly start: number; readonly length: number }) => DeviceBuffer {
  return (x, { outer, n, inner, start, length }) => {
    const data = dataOf(x)
    invariant(
      x.length === outer * n * inner,
      `backend-cpu: slice of ${x.length} elements as [${outer}, ${n}, ${inner}]`,
    )
    invariant(start >= 0 && start + length <= n, `backend-cpu: slice [${start}, ${start + length}) of an axis of ${n}`)
    const out = memory.alloc(x.dtype, outer * length * inner)
    const run = length * inner
    for (let o = 0; o < outer; o++) copyRun(data, (o * n + start) * inner, run, out.data, o * run)
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
      const data = dataOf(x)
      const run = (ns[i] as number) * inner
      invariant(
        x.length === outer * run,
        `backend-cpu: concat of ${x.length} elements as [${outer}, ${ns[i]}, ${inner}]`,
      )
      for (let o = 0; o < outer; o++) copyRun(data, o * run, run, out.data, o * row + column)
      column += run
    })
    return out
  }
}
