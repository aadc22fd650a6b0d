/** Elementwise expressions as chains of ops, each expression planned once. What no later op reads is given back at once. */
import {
  type Expr,
  exprKey,
  isLeaf,
  type MapInput,
  type RequiredKernels,
  type ScalarFunction,
  type Shape,
  sizeOf,
} from "@peftjs/core"
import { binary, cast, constantOf, reshape, select, unary } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import { type Ops, sameShape } from "./ops.ts"
import type { TfTensor } from "./tf-runtime.ts"

const functions: Readonly<Record<Exclude<ScalarFunction, "select">, string>> = {
  ...{ add: "AddV2", sub: "Sub", mul: "Mul", div: "RealDiv", neg: "Neg", exp: "Exp", log: "Log", sqrt: "Sqrt" },
  ...{ rsqrt: "Rsqrt", abs: "Abs", sin: "Sin", cos: "Cos", tanh: "Tanh", sigmoid: "Sigmoid", floor: "Floor" },
  ...{ max: "Maximum", min: "Minimum", lt: "Less", le: "LessEqual", eq: "Equal" },
}
/** Those that TensorFlow answers with a bool. */
const comparisons: ReadonlySet<string> = new Set(["lt", "le", "eq"])

type Leaf = Extract<Expr, { op: "input" | "uniform" | "scalar" | "const" | "index" }>

/** One line of a plan: what it computes, from earlier lines. */
type Step =
  | { readonly leaf: Leaf }
  | { readonly op: string; readonly args: readonly number[] }
  /** A bool as 0 or 1, or whether a number is not 0. */
  | { readonly convert: "number" | "truth"; readonly args: readonly number[] }

interface Plan {
  readonly steps: readonly Step[]
  /** Of each step, the steps that nothing reads after it. */
  readonly last: readonly (readonly number[])[]
  /** Whether it reads coordinates of the output. */
  readonly coordinates: boolean
}

export function createMap(device: Device): RequiredKernels["map"] {
  const plans = new Map<string, Plan>()
  const planOf = (expr: Expr): Plan => {
    const key = exprKey(expr)
    const known = plans.get(key) ?? plan(expr)
    plans.set(key, known)
    return known
  }
  return (expr, inputs, scalars, shape, dtype) =>
    device.produce(
      () => `map of ${inputs.map((x) => `${x.buffer.dtype} [${x.shape}]`).join(", ")} to ${dtype} [${shape}]`,
      dtype,
      sizeOf(shape),
      (ops) => {
        // A conversion alone: integers keep all their digits.
        const [alone] = expr.op === "input" ? inputs.slice(expr.index) : []
        const own = alone?.buffer.dtype === dtype ? alone : undefined
        const { steps, last, coordinates } = own ? { steps: [], last: [], coordinates: false } : planOf(expr)
        // Where every operand has as many elements as the result, their shape does not matter: one that is there is taken.
        const alike = !coordinates && inputs.every((x) => x.buffer.length === sizeOf(shape))
        const [first] = inputs
        const at = alike && first ? ops.any(first.buffer).shape : shape
        const load = (index: number): TfTensor => {
          const { buffer, shape: given } = inputs[index] as MapInput
          return ops.of(buffer, alike ? at : given)
        }
        if (own) return spread(ops, load((expr as { index: number }).index), at)
        const values: TfTensor[] = []
        for (const [i, step] of steps.entries()) {
          const args = "args" in step ? step.args.map((from) => values[from] as TfTensor) : []
          values.push("leaf" in step ? leafOf(ops, step.leaf, load, scalars, shape) : computed(ops, step, args))
          ops.drop(...(last[i] as readonly number[]).map((from) => values[from] as TfTensor))
        }
        return spread(ops, cast(ops, values.at(-1) as TfTensor, dtype), at)
      },
    )
}

function computed(ops: Ops, step: Exclude<Step, { leaf: Leaf }>, args: readonly TfTensor[]): TfTensor {
  const [a, b, c] = args as [TfTensor, TfTensor, TfTensor]
  if ("convert" in step)
    return step.convert === "number" ? cast(ops, a, "f32") : binary(ops, "NotEqual", a, constantOf(ops, 0))
  if (args.length === 3) return select(ops, a, b, c)
  if (step.op === "LogicalAnd") return ops.run(step.op, {}, a, b)
  return args.length === 1 ? unary(ops, step.op, a) : binary(ops, step.op, a, b)
}

function leafOf(
  ops: Ops,
  leaf: Leaf,
  load: (index: number) => TfTensor,
  scalars: readonly number[],
  shape: Shape,
): TfTensor {
  if (leaf.op === "const") return constantOf(ops, leaf.value)
  if (leaf.op === "scalar") return ops.scalar(scalars[leaf.index] as number)
  if (leaf.op === "index") {
    const n = shape[leaf.axis] as number
    const rest = shape.slice(leaf.axis + 1).map(() => 1)
    return ops.constant("f32", [n, ...rest], "counted", () => Float32Array.from({ length: n }, (_, i) => i))
  }
  const x = load(leaf.index)
  if (leaf.op === "input") return cast(ops, x, "f32")
  const eight = ops.constant("u32", [], "8", () => Uint32Array.of(8))
  return binary(ops, "Mul", cast(ops, binary(ops, "RightShift", x, eight), "f32"), constantOf(ops, 2 ** -24))
}

/** Repeats what is smaller than the output. */
function spread(ops: Ops, x: TfTensor, shape: Shape): TfTensor {
  if (sameShape(x.shape, shape)) return x
  if (sizeOf(x.shape) === sizeOf(shape)) return reshape(ops, x, shape)
  return ops.run("BroadcastTo", { T: { type: x.type }, Tidx: { type: "i32" } }, x, ops.ints(shape))
}

/** Whether an expression is 0 or 1. */
const isTruth = (e: Expr): boolean => comparisons.has(e.op) || (e.op === "mul" && e.args.every(isTruth))

/** Equal parts of the expression are one step. */
function plan(expr: Expr): Plan {
  const steps: Step[] = []
  const known = new Map<string, number>()
  const once = (key: string, step: () => Step): number => {
    const found = known.get(key)
    if (found !== undefined) return found
    const made = step()
    known.set(key, steps.length)
    return steps.push(made) - 1
  }
  const number = (e: Expr): number => {
    if (isLeaf(e)) return once(exprKey(e), () => ({ leaf: e as Leaf }))
    if (comparisons.has(e.op)) return once(exprKey(e), () => ({ convert: "number", args: [truth(e)] }))
    return once(exprKey(e), () => {
      const [a, b, c] = e.args as [Expr, Expr, Expr]
      if (e.op === "select") return { op: "SelectV2", args: [truth(a), number(b), number(c)] }
      if (e.op === "mul" && exprKey(a) === exprKey(b)) return { op: "Square", args: [number(a)] }
      return { op: functions[e.op as keyof typeof functions], args: e.args.map(number) }
    })
  }
  const truth = (e: Expr): number =>
    once(`${exprKey(e)}?`, () => {
      const [a, b] = ("args" in e ? e.args : []) as [Expr, Expr]
      if (comparisons.has(e.op)) return { op: functions[e.op as keyof typeof functions], args: [number(a), number(b)] }
      if (e.op === "mul" && [a, b].some(isTruth)) return { op: "LogicalAnd", args: [truth(a), truth(b)] }
      return { convert: "truth", args: [number(e)] }
    })
  number(expr)
  // The result is the last step: it was pushed after all that it reads, and nothing reads it.
  const uses = steps.map((_, i) => steps.findLastIndex((step) => "args" in step && step.args.includes(i)))
  const last = steps.map((_, i) => uses.flatMap((at, j) => (at === i ? [j] : [])))
  const coordinates = steps.some((step) => "leaf" in step && step.leaf.op === "index")
  return { steps, last, coordinates }
}
