/**
 * Code that goes through one row of f32, four elements at a time: what the kernels on rows are built from. The last vector may go past the
 * row's end; what it reads there counts for nothing, and what it writes there is what stood there. Knows no kernel.
 */
import { advance, times } from "./wasm-loop.ts"
import { once, type Scope } from "./wasm-module.ts"
import { type Code, f32x4, i32, i32x4, op, v128 } from "./wasm-op.ts"

/** Four neighbours of a row. */
export interface Place {
  /** Those of the array whose row begins at the address in a local. */
  load(pointer: number): Code
  store(pointer: number, value: Code): Code
  /** The value, with another in lanes behind the row's end. */
  within(value: Code, outside: number): Code
  /** 0…3: neighbouring places differ in it, so that their sums need not wait for each other. */
  readonly turn: number
}

export interface Row {
  /** To be run before the passes: takes the number of elements from its local. */
  readonly begin: Code
  /** All places in order. */
  pass(body: (place: Place) => Code): Code
  /** Folds terms over the row into as many v128 locals; every lane then holds the result. */
  fold(how: Fold, into: readonly number[], terms: (place: Place) => readonly Code[]): Code
}

interface Fold {
  readonly start: number
  readonly combine: (a: Code, b: Code) => Code
}

export const sum: Fold = { start: 0, combine: (a, b) => f32x4.add(a, b) }
/** Passes over NaN: beside numbers it shows in what is computed with them. */
export const largest: Fold = { start: Number.NEGATIVE_INFINITY, combine: (a, b) => f32x4.pmax(a, b) }

const turns = [0, 1, 2, 3] as const
const vectorBytes = 16

/** The passes over rows whose length is in the local `n`. */
export function rowOf(scope: Pick<Scope, "local">, n: number): Row {
  const [fours, rest, at, left] = [scope.local("i32"), scope.local("i32"), scope.local("i32"), scope.local("i32")]
  const mask = scope.local("v128")

  function place(turn: number, last: boolean): Place {
    const address = (pointer: number): Code => i32.add(op.get(pointer), op.get(at))
    const offset = turn * vectorBytes
    const load = (pointer: number): Code => v128.load(address(pointer), offset)
    return {
      turn,
      load,
      store: (pointer, value) =>
        v128.store(address(pointer), last ? v128.bitselect(value, load(pointer), op.get(mask)) : value, offset),
      within: (value, outside) => (last ? v128.bitselect(value, f32x4.splatOf(outside), op.get(mask)) : value),
    }
  }

  function pass(body: (place: Place) => Code): Code {
    const four = turns.flatMap((turn) => body(place(turn, false)))
    return [
      ...op.set(at, i32.const(0)),
      ...op.set(left, i32.shrU(op.get(n), i32.const(4))),
      ...times(left, [...four, ...advance(at, turns.length * vectorBytes)]),
      ...op.set(left, op.get(fours)),
      ...times(left, [...body(place(0, false)), ...advance(at, vectorBytes)]),
      ...op.get(rest),
      ...op.when(body(place(0, true))),
    ]
  }

  return {
    begin: [
      ...op.set(fours, i32.and(i32.shrU(op.get(n), i32.const(2)), i32.const(3))),
      ...op.set(rest, i32.and(op.get(n), i32.const(3))),
      ...op.set(mask, i32x4.gtS(i32x4.splat(op.get(rest)), i32x4.const(0, 1, 2, 3))),
    ],
    pass,
    fold({ start, combine }, into, terms) {
      const parts = into.map(() => turns.map(() => scope.local("v128")))
      return [
        ...parts.flat().flatMap((part) => op.set(part, f32x4.splatOf(start))),
        ...pass((here) =>
          terms(here).flatMap((term, i) => {
            const part = (parts[i] as readonly number[])[here.turn] as number
            return op.set(part, combine(op.get(part), here.within(term, start)))
          }),
        ),
        ...into.flatMap((result, i) => {
          const [a, b, c, d] = (parts[i] as readonly number[]).map(op.get) as [Code, Code, Code, Code]
          return op.set(result, across(scope, combine, combine(combine(a, b), combine(c, d))))
        }),
      ]
    },
  }
}

/** The four lanes combined, in every lane. */
function across(scope: Pick<Scope, "local">, combine: Fold["combine"], value: Code): Code {
  return once(scope, "v128", value, (x) =>
    once(scope, "v128", combine(x, v128.shuffle32([2, 3, 0, 1], x, x)), (y) =>
      combine(y, v128.shuffle32([1, 0, 3, 2], y, y)),
    ),
  )
}
