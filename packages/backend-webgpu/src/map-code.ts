/** An expression in WGSL: one statement per distinct subexpression. Knows neither where operands lie nor how results are stored. */
import { type Expr, exprKey, isLeaf, type ScalarFunction } from "@peftjs/core"
import { callText, functionsFor } from "./map-functions.ts"
import { typesOf, type Width } from "./words.ts"

/** What a leaf is called in the shader. */
export interface LeafNames {
  /** The operand in f32. */
  input(index: number): string
  /** The words of a u32 operand. */
  words(index: number): string
  scalar(index: number): string
  /** The coordinate along an axis of the output, in f32. */
  coordinate(axis: number): string
}

export interface MapCode {
  readonly statements: string
  /** The name of the value. */
  readonly result: string
  readonly functions: string
}

/** In scope must be `p.infinity`, the bits of +∞ (see `needsInfinity`). */
export function codeOf(expr: Expr, width: Width, names: LeafNames): MapCode {
  const { F } = typesOf(width)
  const known = new Map<string, string>()
  const statements: string[] = []
  const ops = new Set<ScalarFunction>()
  const leaf = (e: Expr & { args?: never }): string => {
    switch (e.op) {
      case "input":
        return names.input(e.index)
      case "uniform":
        return `${F}(${names.words(e.index)} >> ${typesOf(width).U}(8u)) * 5.9604644775390625e-8`
      case "scalar":
        return `${F}(${names.scalar(e.index)})`
      case "const":
        return `${F}(${constantText(e.value)})`
      case "index":
        return names.coordinate(e.axis)
    }
  }
  // Constants are named too: an operation on literals alone would be computed, and refused if not finite, by the compiler.
  const walk = (e: Expr): string => {
    const key = exprKey(e)
    const name = known.get(key)
    if (name !== undefined) return name
    const text = isLeaf(e) ? leaf(e) : callText(e.op, e.args.map(walk), width)
    if (!isLeaf(e)) ops.add(e.op)
    const own = `v${known.size}`
    known.set(key, own)
    statements.push(`let ${own} = ${text};`)
    return own
  }
  const result = walk(expr)
  return { statements: statements.join("\n"), result, functions: functionsFor(ops, width) }
}

/** WGSL has no literal that is not finite; those are made of a parameter. */
function constantText(value: number): string {
  const rounded = Math.fround(value)
  if (Number.isNaN(rounded)) return "bitcast<f32>(p.infinity | 0x400000u)"
  if (rounded === Number.POSITIVE_INFINITY) return "bitcast<f32>(p.infinity)"
  if (rounded === Number.NEGATIVE_INFINITY) return "bitcast<f32>(p.infinity | 0x80000000u)"
  const text = String(rounded)
  return /[.e]/.test(text) ? text : `${text}.0`
}

export interface ExprUse {
  readonly scalars: readonly number[]
  readonly needsInfinity: boolean
}

const uses = new WeakMap<Expr, ExprUse>()

/** The scalars an expression reads, and whether it has a constant that is not finite. */
export function useOf(expr: Expr): ExprUse {
  const known = uses.get(expr)
  if (known) return known
  const scalars = new Set<number>()
  const seen = new Set<Expr>()
  let needsInfinity = false
  const walk = (e: Expr): void => {
    if (seen.has(e)) return
    seen.add(e)
    if (!isLeaf(e)) e.args.forEach(walk)
    else if (e.op === "scalar") scalars.add(e.index)
    else if (e.op === "const" && !Number.isFinite(Math.fround(e.value))) needsInfinity = true
  }
  walk(expr)
  const use = { scalars: [...scalars].sort((a, b) => a - b), needsInfinity }
  uses.set(expr, use)
  return use
}
