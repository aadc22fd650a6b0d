/**
 * Each elementwise function in WGSL, for one element or for four.
 * Those whose built-in is too coarse (sin, cos) or fails far from 0 (tanh, sigmoid) are written out; a driver's exp and log may make numbers of
 * NaN, which would hide that a training diverges. max and min are the device's: of a number and NaN most give the number.
 */
import type { ScalarFunction } from "@peftjs/core"
import { typesOf, type Width } from "./words.ts"

/** A call of the function with the names of its arguments. */
export function callText(op: ScalarFunction, args: readonly string[], width: Width): string {
  const { F } = typesOf(width)
  const [a, b, c] = args as [string, string, string]
  const truth = (condition: string): string => `select(${F}(0.0), ${F}(1.0), ${condition})`
  switch (op) {
    case "add":
      return `${a} + ${b}`
    case "sub":
      return `${a} - ${b}`
    case "mul":
      return `${a} * ${b}`
    case "div":
      return `${a} / ${b}`
    case "neg":
      return `-${a}`
    case "rsqrt":
      return `inverseSqrt(${a})`
    case "lt":
      return truth(`${a} < ${b}`)
    case "le":
      return truth(`${a} <= ${b}`)
    case "eq":
      return truth(`${a} == ${b}`)
    case "select":
      return `select(${c}, ${b}, ${a} != ${F}(0.0))`
    case "sin":
      return `quarter_sine(${a}, 0)`
    case "cos":
      return `quarter_sine(${a}, 1)`
    case "exp":
    case "log":
    case "tanh":
    case "sigmoid":
      return `safe_${op}(${a})`
    default:
      return `${op}(${args.join(", ")})`
  }
}

/** The functions that calls of these operations need. */
export function functionsFor(ops: ReadonlySet<ScalarFunction>, width: Width): string {
  const { F, I, U } = typesOf(width)
  const found: string[] = []
  if (ops.has("sin") || ops.has("cos")) found.push(quarterSine(F, I))
  if (ops.has("exp") || ops.has("sigmoid")) found.push(safeExp(F, U))
  if (ops.has("log")) found.push(safeLog(F, U))
  if (ops.has("tanh")) found.push(safeTanh(F))
  if (ops.has("sigmoid")) found.push(safeSigmoid(F))
  return found.join("\n")
}

/** sin(x + quarter · π/2), by Cody and Waite's reduction to [-π/4, π/4] and Cephes' polynomials: WGSL promises 2^-11 only. */
const quarterSine = (F: string, I: string): string => `fn quarter_sine(x: ${F}, quarter: i32) -> ${F} {
  let k = round(x * 0.6366197723675814);
  let r = ((x - k * 1.5703125) - k * 4.837512969970703125e-4) - k * 7.54978995489188216e-8;
  let turn = ${I}(k) + quarter;
  let z = r * r;
  let s = r + r * z * (-1.6666654611e-1 + z * (8.3321608736e-3 - z * 1.9515295891e-4));
  let c = 1.0 - 0.5 * z + z * z * (4.166664568298827e-2 + z * (-1.388731625493765e-3 + z * 2.443315711809948e-5));
  let value = select(s, c, (turn & ${I}(1)) != ${I}(0));
  return select(value, -value, (turn & ${I}(2)) != ${I}(0));
}`

/** The bits are asked, because a compiler may assume that x is a number. */
const safeExp = (F: string, U: string): string => `fn safe_exp(x: ${F}) -> ${F} {
  return select(exp(x), x, (bitcast<${U}>(x) & ${U}(0x7fffffffu)) > ${U}(0x7f800000u));
}`

/** -Infinity of 0, NaN below 0 and of NaN; all these have bits that, as an unsigned number less 1, are not below infinity's. */
const safeLog = (F: string, U: string): string => `fn safe_log(x: ${F}) -> ${F} {
  var u = bitcast<${U}>(x);
  u = select(u, ${U}(0u), u == ${U}(0x80000000u));
  let special = u | select(${U}(0x7fc00000u), ${U}(0xff800000u), u == ${U}(0u));
  return select(log(x), bitcast<${F}>(special), u - ${U}(1u) >= ${U}(0x7f800000u));
}`

/** Near 0 Cephes' polynomial, because 1 - exp(-2x) loses digits there; elsewhere without an exponential that could overflow. */
const safeTanh = (F: string): string => `fn safe_tanh(x: ${F}) -> ${F} {
  let z = x * x;
  let near = x + x * z * (-3.33332819422e-1 + z * (1.33314422036e-1 + z * (-5.37397155531e-2
    + z * (2.06390887954e-2 - z * 5.70498872745e-3))));
  let e = exp(-2.0 * abs(x));
  let far = (1.0 - e) / (1.0 + e);
  // NaN is not at least 0.625, and stays NaN in the polynomial.
  return select(near, select(far, -far, x < ${F}(0.0)), abs(x) >= ${F}(0.625));
}`

const safeSigmoid = (F: string): string => `fn safe_sigmoid(x: ${F}) -> ${F} {
  let e = safe_exp(-abs(x));
  return select(${F}(1.0), e, x < ${F}(0.0)) / (1.0 + e);
}`
