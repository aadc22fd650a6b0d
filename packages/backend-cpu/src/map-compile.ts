/**
 * `map` as JavaScript source: one loop nest per expression and layout, with every common subexpression computed once, in the outermost loop that knows its value.
 * Needs `new Function`; map-interpret.ts is for where that is forbidden. Knows text only, no buffers.
 */
import { type DType, type Expr, exprKey, isLeaf, type ScalarFunction, type TypedArray } from "@peftjs/core"
import { f16Table, toBf16, toF16 } from "./half.ts"
import type { Layout } from "./map-layout.ts"

/** Fills `out`. `strides` holds the layout's strides, operand after operand. */
export type MapLoop = (
  out: TypedArray,
  inputs: readonly TypedArray[],
  scalars: readonly number[],
  sizes: readonly number[],
  strides: readonly number[],
) => void

/** Elements per turn of the innermost loop. */
const unroll = 4

/** A JavaScript expression without side effects, and how many loops it is inside of. */
interface Value {
  readonly name: string
  readonly level: number
}

type Write = (...args: string[]) => string

const functions: Readonly<Record<ScalarFunction, Write>> = {
  add: (a, b) => `${a} + ${b}`,
  sub: (a, b) => `${a} - ${b}`,
  mul: (a, b) => `${a} * ${b}`,
  div: (a, b) => `${a} / ${b}`,
  neg: (a) => `-${a}`,
  exp: (a) => `exp(${a})`,
  log: (a) => `Math.log(${a})`,
  sqrt: (a) => `Math.sqrt(${a})`,
  rsqrt: (a) => `1 / Math.sqrt(${a})`,
  abs: (a) => `Math.abs(${a})`,
  sin: (a) => `Math.sin(${a})`,
  cos: (a) => `Math.cos(${a})`,
  tanh: (a) => `Math.tanh(${a})`,
  sigmoid: (a) => `1 / (1 + exp(-${a}))`,
  floor: (a) => `Math.floor(${a})`,
  max: (a, b) => `Math.max(${a}, ${b})`,
  min: (a, b) => `Math.min(${a}, ${b})`,
  lt: (a, b) => `${a} < ${b} ? 1 : 0`,
  le: (a, b) => `${a} <= ${b} ? 1 : 0`,
  eq: (a, b) => `${a} === ${b} ? 1 : 0`,
  select: (c, a, b) => `${c} !== 0 ? ${a} : ${b}`,
}

const comparisons = { lt: "<", le: "<=", eq: "===" } as const

const loads: Readonly<Record<DType, (array: string, at: string) => string>> = {
  f32: (a, at) => `${a}[${at}]`,
  u8: (a, at) => `${a}[${at}]`,
  i32: (a, at) => `Math.fround(${a}[${at}])`,
  u32: (a, at) => `Math.fround(${a}[${at}])`,
  f16: (a, at) => `f16[${a}[${at}]]`,
  bf16: (a, at) => `(bits[0] = ${a}[${at}] << 16, float[0])`,
}

/** Compiles one loop nest. Throws EvalError where the page's policy forbids it. */
export function compileMap(
  expr: Expr,
  inputs: readonly DType[],
  dtype: DType,
  layout: Layout,
  exp: (x: number) => number,
): MapLoop {
  const source = mapSource(expr, inputs, dtype, layout)
  const float = new Float32Array(1)
  const bits = new Int32Array(float.buffer)
  const table = inputs.includes("f16") ? f16Table() : undefined
  return new Function("exp", "f16", "float", "bits", "toF16", "toBf16", source)(exp, table, float, bits, toF16, toBf16)
}

export function mapSource(expr: Expr, inputs: readonly DType[], dtype: DType, layout: Layout): string {
  const { sizes, strides, loopOfAxis } = layout
  const depth = sizes.length
  // blocks[l] are the statements that run inside l loops.
  const blocks: string[][] = Array.from({ length: depth + 1 }, () => [])
  const names = new Map<string, Value>()
  const positions: { at: string; level: number }[] = []

  strides.forEach((steps, k) => {
    blocks[0]?.push(`const a${k} = inputs[${k}]`)
    let at = "0"
    const last = steps.findLastIndex((s) => s !== 0)
    steps.forEach((step, l) => {
      if (step === 0) return
      // The innermost loop along which a contiguous operand moves always has stride 1.
      const unit = l === last
      if (!unit) blocks[0]?.push(`const s${k}_${l} = strides[${k * depth + l}]`)
      const turn = unit ? `i${l}` : `i${l} * s${k}_${l}`
      const name = `p${k}_${l}`
      blocks[l + 1]?.push(`const ${name} = ${at === "0" ? turn : `${at} + ${turn}`}`)
      at = name
    })
    positions[k] = { at, level: last + 1 }
  })

  function value(e: Expr): Value {
    const key = exprKey(e)
    const found = names.get(key)
    if (found !== undefined) return found
    const made = isLeaf(e) ? leaf(e) : computed(e)
    names.set(key, made)
    return made
  }

  function leaf(e: Extract<Expr, { op: "input" | "uniform" | "scalar" | "const" | "index" }>): {
    name: string
    level: number
  } {
    if (e.op === "const") return { name: literal(e.value), level: 0 }
    if (e.op === "index") {
      const loop = loopOfAxis.get(e.axis)
      return loop === undefined ? { name: "0", level: 0 } : { name: `i${loop}`, level: loop + 1 }
    }
    if (e.op === "scalar") return define(`scalars[${e.index}]`, 0)
    const { at, level } = positions[e.index] as { at: string; level: number }
    const array = `a${e.index}`
    const text =
      e.op === "uniform" ? `(${array}[${at}] >>> 8) * ${2 ** -24}` : loads[inputs[e.index] as DType](array, at)
    return define(text, level)
  }

  function computed(e: Extract<Expr, { args: readonly Expr[] }>): Value {
    const [condition, ...branches] = e.args as [Expr, ...Expr[]]
    if (e.op === "select" && condition.op in comparisons && !isLeaf(condition)) {
      // Written as one condition: the engine does not see through a truth value that became a number.
      const [a, b, yes, no] = [...condition.args, ...branches].map(value) as [Value, Value, Value, Value]
      const test = `${a.name} ${comparisons[condition.op as keyof typeof comparisons]} ${b.name}`
      return define(`${test} ? ${yes.name} : ${no.name}`, Math.max(a.level, b.level, yes.level, no.level))
    }
    const args = e.args.map(value)
    return define(functions[e.op](...args.map((a) => a.name)), Math.max(...args.map((a) => a.level)))
  }

  function define(text: string, level: number): Value {
    const name = `t${names.size}`
    blocks[level]?.push(`const ${name} = ${text}`)
    return { name, level }
  }

  const result = value(expr).name
  const stored = dtype === "f16" ? `toF16(${result})` : dtype === "bf16" ? `toBf16(${result})` : result
  const store = `out[o++] = ${stored}`
  const head = ["return function map(out, inputs, scalars, sizes, strides) {", "let o = 0"]
  return [...head, ...sizes.map((_, l) => `const n${l} = sizes[${l}]`), ...nest(blocks, store), "}"].join("\n")
}

/** The loops around their statements; the innermost does several elements per turn, because the engine does not unroll. */
function nest(blocks: readonly (readonly string[])[], store: string): string[] {
  const depth = blocks.length - 1
  const [before, ...loops] = blocks as [readonly string[], ...(readonly string[])[]]
  const inner = loops.pop()
  if (inner === undefined) return [...before, store]
  const last = depth - 1
  const element = (at: string): string[] => ["{", `const i${last} = ${at}`, ...inner, store, "}"]
  const turn = Array.from({ length: unroll }, (_, i) => element(`j + ${i}`)).flat()
  return [
    ...before,
    ...loops.flatMap((body, l) => [`for (let i${l} = 0; i${l} < n${l}; i${l}++) {`, ...body]),
    "let j = 0",
    ...[`for (; j + ${unroll} <= n${last}; j += ${unroll}) {`, ...turn, "}"],
    ...[`for (; j < n${last}; j++)`, ...element("j")],
    "}".repeat(last),
  ]
}

function literal(value: number): string {
  return Object.is(value, -0) ? "(-0)" : value < 0 ? `(${value})` : String(value)
}
