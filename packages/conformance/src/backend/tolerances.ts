/**
 * How far a result may be from the f64 oracle, relative to 1 + |expected|, by the type of the result and by operation, and why.
 * Operands of 16 bits are exact once widened, so they are held to the same numbers as f32.
 */
import type { DType } from "@peftjs/core"

/** For f32 results. */
const f32 = {
  /** Elements are moved, compared or negated, or sums stay below 2^24 in whole numbers: nothing is rounded. */
  exact: 0,
  /** Random bits are integers, and uniform numbers the exact multiples of 2^-24 that they stand for. */
  random: 0,
  /** A gradient that only moves numbers: they are exact, the central differences it is held to are not. */
  movedGradient: 5e-7,
  /** A few roundings of 6e-8 each; devices compute exp, sin and the like to a handful of units in the last place. */
  elementwise: 2e-6,
  /** An operation and its derivative: two chains of elementwise functions, one after the other. */
  elementwiseGradient: 4e-6,
  /** Rows with equal ids add up in order, a handful of them. */
  scatterAdd: 2e-6,
  /** Sums of up to a few hundred numbers below 1, in any order. */
  reduce: 1e-5,
  /** Sums of up to a few hundred products of numbers below 1, in any order and grouping (tiles, split-K). */
  matmul: 1e-5,
  /** An exponential of a difference and a quotient by a sum: the exponent's error is relative. */
  softmax: 2e-5,
  /** A sum of exponentials and a logarithm. */
  logSumExp: 2e-5,
  /** A mean, an inverse root and two products; the gradient subtracts numbers of like size. */
  norm: 2e-5,
  /** Two products and their sum, by cosines and sines that are given. */
  rope: 2e-6,
  /** Two products with a softmax between them. */
  attention: 2e-5,
  /** Any other chain of sums, exponentials and quotients: losses, dropout, recomputed blocks. */
  composed: 2e-5,
  /** Two moments, their roots and quotients, from parameters below 1. */
  adamw: 1e-5,
  /** Losses after a few steps: every step passes on what the one before was off. */
  training: 2e-4,
} as const

export type ToleranceOp = keyof typeof f32

type Tolerances = Readonly<Record<ToleranceOp, number>>
const exact = Object.fromEntries(Object.keys(f32).map((op) => [op, 0])) as unknown as Tolerances

export const tolerances: Readonly<Record<DType, Tolerances>> = {
  f32,
  // The kit stores in 16 bits only values that are exact in f32: rounding to nearest even has one right result.
  f16: exact,
  bf16: exact,
  // Integers.
  i32: exact,
  u32: exact,
  u8: exact,
}

/** The tolerance of an operation whose result is of a type. */
export function toleranceOf(op: ToleranceOp, dtype: DType = "f32"): number {
  return tolerances[dtype][op]
}
