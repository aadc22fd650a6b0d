/**
 * The required kernels as plain loops over host arrays: the meaning of each in the fewest words, for whoever writes a backend.
 * They know nothing of buffers and never write an argument.
 */
import type { Axis, DType, Expr, MatmulDims, ScalarFunction, Shape, TypedArray } from "@peftjs/core"
import { hostArray, invariant, isLeaf, scalarFunctions, sizeOf } from "@peftjs/core"

export interface HostOperand {
  readonly data: TypedArray
  readonly shape: Shape
}

/** Evaluates an expression at every position of `shape`; operands broadcast as in NumPy. */
export function map(
  expr: Expr,
  operands: readonly HostOperand[],
  scalars: readonly number[],
  shape: Shape,
  dtype: DType,
): TypedArray {
  const out = hostArray(dtype, sizeOf(shape))
  const strides = operands.map((x) => broadcastStrides(x.shape, shape))
  const at = shape.map(() => 0)
  const read = (k: number): number => {
    const offset = at.reduce((sum, i, axis) => sum + i * (strides[k]?.[axis] as number), 0)
    return operands[k]?.data[offset] as number
  }
  const evaluate = (e: Expr): number => {
    if (!isLeaf(e)) return Math.fround(scalarFunctions[e.op as ScalarFunction].value(...e.args.map(evaluate)))
    if (e.op === "const") return Math.fround(e.value)
    if (e.op === "scalar") return Math.fround(scalars[e.index] as number)
    if (e.op === "index") return at[e.axis] as number
    return e.op === "uniform" ? (read(e.index) >>> 8) * 2 ** -24 : Math.fround(read(e.index))
  }
  for (let i = 0; i < out.length; i++) {
    out[i] = evaluate(expr)
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at[axis] = ((at[axis] as number) + 1) % (shape[axis] as number)
      if (at[axis] !== 0) break
    }
  }
  return out
}

function broadcastStrides(from: Shape, to: Shape): number[] {
  const own = [...Array<number>(to.length - from.length).fill(1), ...from]
  return own.map((size, axis) => {
    invariant(size === 1 || size === to[axis], `map: [${from}] does not broadcast to [${to}]`)
    return size === 1 ? 0 : sizeOf(own.slice(axis + 1))
  })
}

export function reduce(op: "sum" | "max", x: TypedArray, { outer, n, inner }: Axis): Float32Array {
  const out = new Float32Array(outer * inner)
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      let result = op === "sum" ? 0 : Number.NEGATIVE_INFINITY
      for (let j = 0; j < n; j++) {
        const value = x[(o * n + j) * inner + i] as number
        result = op === "sum" ? result + value : Math.max(result, value)
      }
      out[o * inner + i] = result
    }
  }
  return out
}

export function matmul(a: TypedArray, b: TypedArray, dims: MatmulDims): Float32Array {
  const { batch, m, n, k, transA, transB } = dims
  const out = new Float32Array(batch * m * n)
  for (let c = 0; c < batch; c++) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0
        for (let p = 0; p < k; p++) {
          const x = a[c * m * k + (transA ? p * m + i : i * k + p)] as number
          const y = b[c * k * n + (transB ? j * k + p : p * n + j)] as number
          sum += x * y
        }
        out[(c * m + i) * n + j] = sum
      }
    }
  }
  return out
}

export function gather(table: TypedArray, ids: TypedArray, width: number): Float32Array {
  const out = new Float32Array(ids.length * width)
  for (let i = 0; i < ids.length; i++) {
    for (let j = 0; j < width; j++) out[i * width + j] = table[(ids[i] as number) * width + j] as number
  }
  return out
}

export function scatterAdd(x: TypedArray, ids: TypedArray, rows: number, width: number): Float32Array {
  const out = new Float32Array(rows * width)
  for (let i = 0; i < ids.length; i++) {
    for (let j = 0; j < width; j++) {
      const to = (ids[i] as number) * width + j
      out[to] = (out[to] as number) + (x[i * width + j] as number)
    }
  }
  return out
}

export function permute(x: TypedArray, dtype: DType, shape: Shape, axes: readonly number[]): TypedArray {
  const out = hostArray(dtype, x.length)
  const turned = axes.map((axis) => shape[axis] as number)
  for (let to = 0; to < out.length; to++) {
    let [rest, from] = [to, 0]
    for (let j = axes.length - 1; j >= 0; j--) {
      const size = turned[j] as number
      from += (rest % size) * sizeOf(shape.slice((axes[j] as number) + 1))
      rest = Math.floor(rest / size)
    }
    out[to] = x[from] as number
  }
  return out
}

/** Joins arrays that hold `runs[i]` elements for each of `outer` rows. */
export function concat(xs: readonly TypedArray[], dtype: DType, outer: number, runs: readonly number[]): TypedArray {
  const out = hostArray(dtype, outer * runs.reduce((a, b) => a + b, 0))
  let at = 0
  for (let o = 0; o < outer; o++) {
    xs.forEach((x, i) => {
      const run = runs[i] as number
      for (let j = 0; j < run; j++) out[at++] = x[o * run + j] as number
    })
  }
  return out
}

export function slice(x: TypedArray, dtype: DType, axis: Axis & { start: number; length: number }): TypedArray {
  const { outer, n, inner, start, length } = axis
  const out = hostArray(dtype, outer * length * inner)
  for (let o = 0; o < outer; o++) {
    for (let j = 0; j < length * inner; j++) out[o * length * inner + j] = x[(o * n + start) * inner + j] as number
  }
  return out
}
