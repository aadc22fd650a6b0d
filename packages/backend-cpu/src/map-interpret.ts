/** `map` without generated code, for the reference and for engines without WebAssembly SIMD: a tree of closures walked once per element. Slow and short. */
import { type DType, type Expr, isLeaf, type Layout, scalarFunctions, type TypedArray } from "@peftjs/core"
import { f16Table, toBf16, toF16 } from "./half.ts"

/** Fills `out`. `strides` holds the layout's strides, operand after operand. */
export type MapLoop = (
  out: TypedArray,
  inputs: readonly TypedArray[],
  scalars: readonly number[],
  sizes: readonly number[],
  strides: readonly number[],
) => void

interface Cursor {
  readonly inputs: readonly TypedArray[]
  readonly scalars: readonly number[]
  /** Position in each operand. */
  readonly at: Int32Array
  /** Turn of each loop. */
  readonly turn: Int32Array
}

type Node = (c: Cursor) => number

export function interpretMap(expr: Expr, inputs: readonly DType[], dtype: DType, layout: Layout): MapLoop {
  const evaluate = build(expr, inputs, layout)
  const round = dtype === "f16" ? toF16 : dtype === "bf16" ? toBf16 : (x: number) => x
  return (out, arrays, scalars, sizes, strides) => {
    const depth = sizes.length
    const cursor = { inputs: arrays, scalars, at: new Int32Array(arrays.length), turn: new Int32Array(depth) }
    const walk = (level: number, o: number): number => {
      if (level === depth) {
        out[o] = round(evaluate(cursor))
        return o + 1
      }
      const n = sizes[level] as number
      const step = (k: number): number => strides[k * depth + level] as number
      for (let i = 0; i < n; i++) {
        cursor.turn[level] = i
        o = walk(level + 1, o)
        for (let k = 0; k < arrays.length; k++) (cursor.at[k] as number) += step(k)
      }
      for (let k = 0; k < arrays.length; k++) (cursor.at[k] as number) -= n * step(k)
      return o
    }
    walk(0, 0)
  }
}

function build(e: Expr, inputs: readonly DType[], layout: Layout): Node {
  if (!isLeaf(e)) {
    const args = e.args.map((a) => build(a, inputs, layout))
    const { value } = scalarFunctions[e.op]
    return (c) => value(...args.map((a) => a(c)))
  }
  if (e.op === "const") return () => e.value
  if (e.op === "scalar") return (c) => c.scalars[e.index] as number
  if (e.op === "index") {
    const loop = layout.loopOfAxis.get(e.axis)
    return loop === undefined ? () => 0 : (c) => c.turn[loop] as number
  }
  const k = e.index
  const raw: Node = (c) => (c.inputs[k] as TypedArray)[c.at[k] as number] as number
  if (e.op === "uniform") return (c) => (raw(c) >>> 8) * 2 ** -24
  return widened(raw, inputs[k] as DType)
}

function widened(raw: Node, dtype: DType): Node {
  if (dtype === "f16") {
    const table = f16Table()
    return (c) => table[raw(c)] as number
  }
  if (dtype === "bf16") {
    const float = new Float32Array(1)
    const bits = new Int32Array(float.buffer)
    return (c) => {
      bits[0] = raw(c) << 16
      return float[0] as number
    }
  }
  return (c) => Math.fround(raw(c))
}
