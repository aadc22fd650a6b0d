/** Turning a matrix of 4-byte elements round inside the heap, in blocks of 4 x 4. Knows no types: elements are moved, not looked at. */
import { perHeap } from "./heap.ts"
import { advance, times } from "./wasm-loop.ts"
import { type Scope, wasmFunction } from "./wasm-module.ts"
import { type Code, i32, op, v128 } from "./wasm-op.ts"

/** (from, to, rows, columns, fromStep, toStep): element [r, c] goes to [c, r]; the steps are bytes from a row to the next. */
export const transpose: ReturnType<typeof perHeap<Transpose>> = perHeap(
  (heap) => heap.load([code]).transpose as Transpose,
)

type Transpose = (from: number, to: number, rows: number, columns: number, fromStep: number, toStep: number) => number

/** Four vectors, the rows of a block, as the vectors of its columns. */
export function turned(
  scope: Pick<Scope, "local">,
  rows: readonly Code[],
  use: (columns: readonly Code[]) => Code,
): Code {
  const [a, b, c, d] = rows.map(() => scope.local("v128")) as [number, number, number, number]
  const [ab, cd] = [scope.local("v128"), scope.local("v128")]
  const [low, high] = [scope.local("v128"), scope.local("v128")]
  const pair = (to: number, lanes: readonly number[], x: number, y: number): Code =>
    op.set(to, v128.shuffle32(lanes, op.get(x), op.get(y)))
  // a0 b0 a1 b1 and c0 d0 c1 d1, then what belongs to one column; and so for the other two.
  return [
    ...[a, b, c, d].flatMap((local, i) => op.set(local, rows[i])),
    ...[...pair(ab, [0, 4, 1, 5], a, b), ...pair(cd, [0, 4, 1, 5], c, d)],
    ...[...pair(low, [2, 6, 3, 7], a, b), ...pair(high, [2, 6, 3, 7], c, d)],
    ...use([
      v128.shuffle32([0, 1, 4, 5], op.get(ab), op.get(cd)),
      v128.shuffle32([2, 3, 6, 7], op.get(ab), op.get(cd)),
      v128.shuffle32([0, 1, 4, 5], op.get(low), op.get(high)),
      v128.shuffle32([2, 3, 6, 7], op.get(low), op.get(high)),
    ]),
  ]
}

const code = wasmFunction(
  "transpose",
  { from: "i32", to: "i32", rows: "i32", columns: "i32", fromStep: "i32", toStep: "i32" },
  (scope) => {
    const { from, to, rows, columns, fromStep, toStep } = scope.param
    const [source, target, left] = [scope.local("i32"), scope.local("i32"), scope.local("i32")]
    const [fours, rest] = [i32.shrU(op.get(rows), i32.const(2)), i32.and(op.get(rows), i32.const(3))]
    const group = scope.local("i32")
    const at = (start: number, index: number, step: number): Code =>
      i32.add(op.get(start), i32.mul(op.get(step), i32.const(index)))
    const block = turned(
      scope,
      [0, 1, 2, 3].map((r) => v128.load(at(source, r, fromStep))),
      (vectors) => vectors.flatMap((vector, c) => v128.store(at(target, c, toStep), vector)),
    )
    /** One column of so many rows. */
    const column = (count: number): Code => [
      ...Array.from({ length: count }, (_, r) =>
        i32.store(op.get(target), i32.load(at(source, r, fromStep)), 4 * r),
      ).flat(),
      ...advance(source, 4),
      ...advance(target, op.get(toStep)),
    ]
    const begin = [...op.set(source, op.get(from)), ...op.set(target, op.get(to))]
    return [
      ...op.set(group, fours),
      ...times(group, [
        ...begin,
        ...op.set(left, i32.shrU(op.get(columns), i32.const(2))),
        ...times(left, [...block, ...advance(source, 16), ...advance(target, i32.shl(op.get(toStep), i32.const(2)))]),
        ...op.set(left, i32.and(op.get(columns), i32.const(3))),
        ...times(left, column(4)),
        ...advance(from, i32.shl(op.get(fromStep), i32.const(2))),
        ...advance(to, 16),
      ]),
      ...op.set(group, rest),
      ...times(group, [
        ...begin,
        ...op.set(left, op.get(columns)),
        ...times(left, column(1)),
        ...advance(from, op.get(fromStep)),
        ...advance(to, 4),
      ]),
    ]
  },
)
