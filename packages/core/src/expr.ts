/**
 * Elementwise arithmetic as plain data, with its derivative.
 * A backend turns an expression into one kernel (`map`); the gradient of a map is another map, found here by symbolic differentiation.
 * Knows no tensors and no device. Truth is 1, falsehood 0.
 */
import { PeftError } from "./errors.ts"

export type Expr =
  /** The index-th operand; integers are converted to f32. */
  | { readonly op: "input"; readonly index: number }
  /** The index-th u32 operand as a uniform number in [0, 1): (bits >>> 8) · 2^-24. */
  | { readonly op: "uniform"; readonly index: number }
  /** The index-th scalar argument: for what changes from call to call, so that the kernel stays the same. */
  | { readonly op: "scalar"; readonly index: number }
  | { readonly op: "const"; readonly value: number }
  /** The coordinate along an axis of the output. */
  | { readonly op: "index"; readonly axis: number }
  | { readonly op: ScalarFunction; readonly args: readonly Expr[] }

/** Every function a backend has to translate. */
export type ScalarFunction =
  | "add"
  | "sub"
  | "mul"
  | "div"
  | "neg"
  | "exp"
  | "log"
  | "sqrt"
  | "rsqrt"
  | "abs"
  | "sin"
  | "cos"
  | "tanh"
  | "sigmoid"
  | "floor"
  | "max"
  | "min"
  | "lt"
  | "le"
  | "eq"
  | "select"

type Leaf = "input" | "uniform" | "scalar" | "const" | "index"

export interface ScalarRow {
  readonly arity: number
  readonly value: (...args: number[]) => number
  /** Partial derivatives by argument, as expressions in the arguments. */
  readonly derivative: (...args: Expr[]) => readonly Expr[]
}

export const input = (index: number): Expr => ({ op: "input", index })
export const scalar = (index: number): Expr => ({ op: "scalar", index })
export const constant = (value: number): Expr => ({ op: "const", value })
export const coordinate = (axis: number): Expr => ({ op: "index", axis })
export const uniform = (index: number): Expr => ({ op: "uniform", index })

/** Applies a function of the table, folding what is constant. */
export function call(op: ScalarFunction, ...args: readonly Expr[]): Expr {
  return simplify(op, args) ?? { op, args }
}

const zero = constant(0)
const one = constant(1)
const add = (a: Expr, b: Expr): Expr => call("add", a, b)
const sub = (a: Expr, b: Expr): Expr => call("sub", a, b)
const mul = (a: Expr, b: Expr): Expr => call("mul", a, b)
const div = (a: Expr, b: Expr): Expr => call("div", a, b)
const neg = (a: Expr): Expr => call("neg", a)

/** One row per function: how many arguments it takes, its meaning in f64, its derivative. A backend must cover every name. */
export const scalarFunctions: Readonly<Record<ScalarFunction, ScalarRow>> = {
  add: { arity: 2, value: (a, b) => a + b, derivative: () => [one, one] },
  sub: { arity: 2, value: (a, b) => a - b, derivative: () => [one, constant(-1)] },
  mul: { arity: 2, value: (a, b) => a * b, derivative: (a, b) => [b, a] },
  div: { arity: 2, value: (a, b) => a / b, derivative: (a, b) => [div(one, b), neg(div(a, mul(b, b)))] },
  neg: { arity: 1, value: (a) => -a, derivative: () => [constant(-1)] },
  exp: { arity: 1, value: Math.exp, derivative: (a) => [call("exp", a)] },
  log: { arity: 1, value: Math.log, derivative: (a) => [div(one, a)] },
  sqrt: { arity: 1, value: Math.sqrt, derivative: (a) => [div(constant(0.5), call("sqrt", a))] },
  rsqrt: {
    arity: 1,
    value: (a) => 1 / Math.sqrt(a),
    derivative: (a) => [div(mul(constant(-0.5), call("rsqrt", a)), a)],
  },
  abs: { arity: 1, value: Math.abs, derivative: (a) => [sub(call("lt", zero, a), call("lt", a, zero))] },
  sin: { arity: 1, value: Math.sin, derivative: (a) => [call("cos", a)] },
  cos: { arity: 1, value: Math.cos, derivative: (a) => [neg(call("sin", a))] },
  tanh: { arity: 1, value: Math.tanh, derivative: (a) => [sub(one, mul(call("tanh", a), call("tanh", a)))] },
  sigmoid: {
    arity: 1,
    value: (a) => 1 / (1 + Math.exp(-a)),
    derivative: (a) => [mul(call("sigmoid", a), sub(one, call("sigmoid", a)))],
  },
  floor: { arity: 1, value: Math.floor, derivative: () => [zero] },
  max: { arity: 2, value: Math.max, derivative: (a, b) => [call("le", b, a), call("lt", a, b)] },
  min: { arity: 2, value: Math.min, derivative: (a, b) => [call("le", a, b), call("lt", b, a)] },
  lt: { arity: 2, value: (a, b) => (a < b ? 1 : 0), derivative: () => [zero, zero] },
  le: { arity: 2, value: (a, b) => (a <= b ? 1 : 0), derivative: () => [zero, zero] },
  eq: { arity: 2, value: (a, b) => (a === b ? 1 : 0), derivative: () => [zero, zero] },
  /** select(c, a, b) is a where c is not 0, else b; the branch not taken may be NaN. */
  select: {
    arity: 3,
    value: (c, a, b) => (c !== 0 ? a : b),
    derivative: (c) => [zero, call("select", c, one, zero), call("select", c, zero, one)],
  },
}

export function isLeaf(expr: Expr): expr is Extract<Expr, { op: Leaf }> {
  return !("args" in expr)
}

/** A text that is equal for equal expressions: the cache key of a compiled kernel. */
export function exprKey(expr: Expr): string {
  const known = keys.get(expr)
  if (known !== undefined) return known
  const key = isLeaf(expr)
    ? `${expr.op[0]}${expr.op === "const" ? expr.value : expr.op === "index" ? `x${expr.axis}` : expr.index}`
    : `${expr.op}(${expr.args.map(exprKey).join(",")})`
  keys.set(expr, key)
  return key
}
const keys = new WeakMap<Expr, string>()

/** ∂expr/∂input(index). Random and integer operands have derivative 0. */
export function differentiate(expr: Expr, index: number): Expr {
  if (isLeaf(expr)) return expr.op === "input" && expr.index === index ? one : zero
  if (expr.op === "select") {
    // Not condition · derivative: the branch not taken may have none (0 · Infinity is NaN).
    const [condition, a, b] = expr.args as [Expr, Expr, Expr]
    const [da, db] = [differentiate(a, index), differentiate(b, index)]
    return exprKey(da) === exprKey(db) ? da : call("select", condition, da, db)
  }
  return scalarFunctions[expr.op]
    .derivative(...expr.args)
    .map((d, i) => mul(d, differentiate(expr.args[i] as Expr, index)))
    .reduce(add, zero)
}

/** Which operands an expression reads, ascending. */
export function inputsOf(expr: Expr): number[] {
  const found = new Set<number>()
  const walk = (e: Expr): void => {
    if (!isLeaf(e)) e.args.forEach(walk)
    else if (e.op === "input" || e.op === "uniform") found.add(e.index)
  }
  walk(expr)
  return [...found].sort((a, b) => a - b)
}

/** The same expression with operand i renamed to rename(i). */
export function renameInputs(expr: Expr, rename: (index: number) => number): Expr {
  if (!isLeaf(expr)) return { op: expr.op, args: expr.args.map((a) => renameInputs(a, rename)) }
  return expr.op === "input" || expr.op === "uniform" ? { op: expr.op, index: rename(expr.index) } : expr
}

function simplify(op: ScalarFunction, args: readonly Expr[]): Expr | undefined {
  const row = scalarFunctions[op]
  if (args.length !== row.arity) {
    throw new PeftError("E_INTERNAL", `[core] ${op} takes ${row.arity} arguments, got ${args.length}`)
  }
  const [a, b] = args as [Expr, Expr]
  if (args.every((x) => x.op === "const")) {
    return constant(row.value(...args.map((x) => (x as { value: number }).value)))
  }
  const is = (x: Expr, value: number): boolean => x.op === "const" && x.value === value
  if (op === "mul") {
    if (is(a, 0) || is(b, 0)) return zero
    if (is(a, 1)) return b
    if (is(b, 1)) return a
  }
  if (op === "add") {
    if (is(a, 0)) return b
    if (is(b, 0)) return a
  }
  if (op === "sub" && is(b, 0)) return a
  if (op === "div" && is(b, 1)) return a
  return undefined
}
