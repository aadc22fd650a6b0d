/**
 * `map` as WebAssembly: one loop nest per expression and layout, four elements per turn of the innermost loop, with every common
 * subexpression computed once, in the outermost loop that knows its value. Knows code only, no buffers.
 * A row's last vector may go past its end: what it writes there is the next row's, which is written later, or lies behind the buffer.
 */
import { bytesPerElement, type DType, type Expr, exprKey, isLeaf, type Layout, type ScalarFunction } from "@peftjs/core"
import { loadFour, loadSplat, loadUniform, storeFour } from "./wasm-element.ts"
import { exp, log, sigmoid, tanh } from "./wasm-functions.ts"
import { advance } from "./wasm-loop.ts"
import { type Scope, type ValueType, type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, f32, f32x4, f64, i32, i32x4, op, v128 } from "./wasm-op.ts"

export type MapType = "f32" | "f16" | "bf16" | "i32"

/** Functions that code cannot do itself: their arguments may be of any size, and they are rare. */
export const mapImports: Readonly<Record<"sin" | "cos", (x: number) => number>> = { sin: Math.sin, cos: Math.cos }

/** A vector, and how many loops it is inside of. */
interface Value {
  readonly read: Code
  readonly level: number
}

/**
 * Parameters of the function, in order: address of each output; of each operand; size of each loop; its first coordinate; for each operand and
 * loop the bytes of a turn; scalars.
 */
export function mapFunction(
  exprs: readonly Expr[],
  inputs: readonly DType[],
  scalars: number,
  dtype: MapType,
  { sizes, strides, loopOfAxis }: Layout,
): WasmFunction {
  const depth = sizes.length
  const each = (prefix: string, count: number): string[] => Array.from({ length: count }, (_, i) => `${prefix}${i}`)
  const integers = [
    ...each("out", exprs.length),
    ...each("a", inputs.length),
    ...each("n", depth),
    ...each("first", depth),
    ...inputs.flatMap((_, k) => each(`s${k}_`, depth)),
  ]
  const params: [string, ValueType][] = [
    ...integers.map((name): [string, ValueType] => [name, "i32"]),
    ...each("c", scalars).map((name): [string, ValueType] => [name, "f32"]),
  ]
  return wasmFunction("map", Object.fromEntries(params), (scope) => {
    const param = (name: string): Code => op.get(scope.param[name] as number)
    const turns = sizes.map(() => scope.local("i32"))
    // blocks[l] runs inside l loops.
    const blocks: Code[][] = Array.from({ length: depth + 1 }, () => [])
    const values = new Map<string, Value>()
    const positions: { readonly local: number; readonly level: number; readonly moves: boolean }[] = []
    const last = depth - 1
    const counter = scope.local("v128")

    strides.forEach((steps, k) => {
      let at = scope.param[`a${k}`] as number
      let level = 0
      steps.slice(0, last).forEach((step, l) => {
        if (step === 0) return
        const next = scope.local("i32")
        blocks[l + 1]?.push(op.set(next, i32.add(op.get(at), i32.mul(op.get(turns[l] as number), param(`s${k}_${l}`)))))
        at = next
        level = l + 1
      })
      const moves = steps[last] !== 0
      // The innermost loop moves a pointer of its own.
      const pointer = moves ? scope.local("i32") : at
      if (moves) blocks[last]?.push(op.set(pointer, op.get(at)))
      positions[k] = { local: pointer, level, moves }
    })

    function value(e: Expr): Value {
      const key = exprKey(e)
      const found = values.get(key)
      if (found !== undefined) return found
      const made = isLeaf(e) ? leaf(e) : computed(e.op, e.args)
      values.set(key, made)
      return made
    }

    function leaf(e: Exclude<Expr, { args: readonly Expr[] }>): Value {
      if (e.op === "const") return define(f32x4.splatOf(e.value), 0)
      if (e.op === "scalar") return define(f32x4.splat(param(`c${e.index}`)), 0)
      if (e.op === "index") {
        const loop = loopOfAxis.get(e.axis)
        if (loop === undefined) return define(f32x4.splatOf(0), 0)
        if (loop === last) return define(f32x4.convertS(op.get(counter)), depth)
        const coordinate = i32.add(op.get(turns[loop] as number), param(`first${loop}`))
        return define(f32x4.convertS(i32x4.splat(coordinate)), loop + 1)
      }
      const { local, level, moves } = positions[e.index] as (typeof positions)[number]
      const at = op.get(local)
      const type = inputs[e.index] as DType
      if (e.op === "uniform") return define(loadUniform(at, !moves), moves ? depth : level)
      return moves ? define(loadFour(scope, type, at), depth) : define(loadSplat(scope, type, at), level)
    }

    function computed(name: ScalarFunction, args: readonly Expr[]): Value {
      const [condition, ...branches] = args as [Expr, ...Expr[]]
      const comparison = name === "select" && !isLeaf(condition) && isComparison(condition.op)
      const operands = (comparison ? [...condition.args, ...branches] : args).map(value)
      const level = Math.max(...operands.map((x) => x.level))
      const read = operands.map((x) => x.read)
      if (comparison) {
        const [a, b, yes, no] = read as [Code, Code, Code, Code]
        return define(v128.bitselect(yes, no, f32x4[condition.op as Comparison](a, b)), level)
      }
      return define(call(scope, name, read), level)
    }

    function define(code: Code, level: number): Value {
      const local = scope.local("v128")
      blocks[level]?.push(op.set(local, code))
      return { read: op.get(local), level }
    }

    const results = exprs.map((expr) => value(expr).read)
    const outs = exprs.map((_, i) => ({ out: scope.param[`out${i}`] as number, at: scope.local("i32") }))
    const [{ out, at }] = outs as [(typeof outs)[number]]
    const end = scope.local("i32")
    const size = bytesPerElement[dtype]
    const bytes = i32.mul(param(`n${last}`), i32.const(size))
    const inner = [
      ...outs.flatMap((place) => op.set(place.at, op.get(place.out))),
      ...op.set(end, i32.add(op.get(out), bytes)),
      ...op.set(counter, i32x4.add(i32x4.splat(param(`first${last}`)), i32x4.const(0, 1, 2, 3))),
      ...op.loop([
        ...(blocks[depth] as Code[]).flat(),
        ...outs.flatMap((place, i) => storeFour(scope, dtype, op.get(place.at), results[i] as Code)),
        ...positions.flatMap((p, k) => (p.moves ? advance(p.local, 4 * bytesPerElement[inputs[k] as DType]) : [])),
        ...op.set(counter, i32x4.add(op.get(counter), i32x4.splatOf(4))),
        ...outs.flatMap((place) => advance(place.at, 4 * size)),
        ...i32.ltU(op.get(at), op.get(end)),
      ]),
      ...outs.flatMap((place) => advance(place.out, bytes)),
    ]
    const nest = (l: number): Code =>
      l === last
        ? inner
        : [
            ...op.set(turns[l] as number, i32.const(0)),
            ...op.loop([
              ...(blocks[l + 1] as Code[]).flat(),
              ...nest(l + 1),
              ...advance(turns[l] as number, 1),
              ...i32.ltU(op.get(turns[l] as number), param(`n${l}`)),
            ]),
          ]
    return [...(blocks[0] as Code[]).flat(), ...nest(0)]
  })
}

type Comparison = "lt" | "le" | "eq"
const isComparison = (name: ScalarFunction): name is Comparison => name === "lt" || name === "le" || name === "eq"

function call(scope: Scope, name: ScalarFunction, args: readonly Code[]): Code {
  const [a, b, c] = args as [Code, Code, Code]
  const one = f32x4.splatOf(1)
  switch (name) {
    case "lt":
    case "le":
    case "eq":
      return v128.and(f32x4[name](a, b), one)
    case "select":
      return v128.bitselect(b, c, f32x4.ne(a, f32x4.splatOf(0)))
    case "rsqrt":
      return f32x4.div(one, f32x4.sqrt(a))
    case "exp":
      return exp(scope, a)
    case "log":
      return log(scope, a)
    case "tanh":
      return tanh(scope, a)
    case "sigmoid":
      return sigmoid(scope, a)
    case "sin":
    case "cos":
      return lanes(a, Object.keys(mapImports).indexOf(name))
    default:
      return f32x4[name](...args)
  }
}

/** An imported function of each lane. */
function lanes(x: Code, index: number): Code {
  return [0, 1, 2, 3].reduce<Code>(
    (vector, lane) =>
      f32x4.replaceLane(lane, vector, f32.demote(op.call(index, f64.promote(f32x4.extractLane(lane, x))))),
    x,
  )
}
