/** Sums and maxima as WebAssembly. Knows addresses, no buffers. Sums are kept in f64: many short terms would lose digits in f32. */
import { advance, times } from "./wasm-loop.ts"
import { type Scope, type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, f32, f32x4, f64, f64x2, i32, op, v128 } from "./wasm-op.ts"

export type Reduction = "sum" | "max"

const none = Number.NEGATIVE_INFINITY

/** Accumulators of two vectors side by side: four pairs of f64, or two vectors. */
interface Accumulators {
  readonly clear: Code
  /** Takes vector `i` in. */
  add(i: number, vector: Code): Code
}

function accumulators(kind: Reduction, scope: Scope, vectors: number): Accumulators & { readonly locals: number[] } {
  const wide = kind === "sum"
  const locals = Array.from({ length: wide ? 2 * vectors : vectors }, () => scope.local("v128"))
  const vector = scope.local("v128")
  const local = (i: number): number => locals[i] as number
  return {
    locals,
    clear: locals.flatMap((l) => op.set(l, wide ? f64x2.splatOf(0) : f32x4.splatOf(none))),
    add(i, value) {
      if (!wide) return op.set(local(i), f32x4.max(op.get(local(i)), value))
      const taken = op.get(vector)
      return [
        ...op.set(vector, value),
        ...op.set(local(2 * i), f64x2.add(op.get(local(2 * i)), f64x2.promoteLow(taken))),
        ...op.set(
          local(2 * i + 1),
          f64x2.add(op.get(local(2 * i + 1)), f64x2.promoteLow(v128.shuffle32([2, 3, 2, 3], taken, taken))),
        ),
      ]
    },
  }
}

/** [rows, n] → [rows]. */
export function reduceRows(kind: Reduction): WasmFunction {
  return wasmFunction(`${kind}Rows`, { x: "i32", out: "i32", rows: "i32", n: "i32" }, (scope) => {
    const { x, out, rows, n } = scope.param
    const vectors = 2
    const acc = accumulators(kind, scope, vectors)
    const left = scope.local("i32")
    const single = scope.local(kind === "sum" ? "f64" : "f32")
    const [combine, extract] = kind === "sum" ? [f64.add, f64x2.extractLane] : [f32.max, f32x4.extractLane]
    const joined = acc.locals.map(op.get).reduce((a, b) => (kind === "sum" ? f64x2.add : f32x4.max)(a, b))
    const whole = scope.local("v128")
    const lanes = kind === "sum" ? [0, 1] : [0, 1, 2, 3]
    const element = f32.load(op.get(x))
    return times(rows, [
      ...acc.clear,
      ...op.set(left, i32.shrU(op.get(n), i32.const(3))),
      ...times(left, [...acc.add(0, v128.load(op.get(x))), ...acc.add(1, v128.load(op.get(x), 16)), ...advance(x, 32)]),
      ...op.set(whole, joined),
      ...op.set(
        single,
        lanes.map((l) => extract(l, op.get(whole))).reduce((a, b) => combine(a, b)),
      ),
      ...op.set(left, i32.and(op.get(n), i32.const(7))),
      ...times(left, [
        ...op.set(single, combine(op.get(single), kind === "sum" ? f64.promote(element) : element)),
        ...advance(x, 4),
      ]),
      ...f32.store(op.get(out), kind === "sum" ? f32.demote(op.get(single)) : op.get(single)),
      ...advance(out, 4),
    ])
  })
}

/** [outer, n, inner] → [outer, inner], in strips of a cache line's columns and then of a vector's. */
export function reduceColumns(kind: Reduction): WasmFunction {
  const params = { x: "i32", out: "i32", outer: "i32", n: "i32", inner: "i32" } as const
  return wasmFunction(`${kind}Columns`, params, (scope) => {
    const { x, out, outer, n, inner } = scope.param
    const [left, depth, at, column, target] = Array.from({ length: 5 }, () => scope.local("i32")) as [
      ...[number, number, number],
      ...[number, number],
    ]
    const strip = (vectors: number): Code => {
      const acc = accumulators(kind, scope, vectors)
      const pair = (i: number): Code => f32x4.demoteF64Zero(op.get(acc.locals[i] as number))
      const result = (i: number): Code =>
        kind === "sum" ? v128.shuffle32([0, 1, 4, 5], pair(2 * i), pair(2 * i + 1)) : op.get(acc.locals[i] as number)
      const each = Array.from({ length: vectors }, (_, i) => i)
      return times(left, [
        ...acc.clear,
        ...op.set(at, op.get(column)),
        ...op.set(depth, op.get(n)),
        ...times(depth, [
          ...each.flatMap((i) => acc.add(i, v128.load(op.get(at), 16 * i))),
          ...advance(at, i32.shl(op.get(inner), i32.const(2))),
        ]),
        ...each.flatMap((i) => v128.store(op.get(target), result(i), 16 * i)),
        ...advance(column, 16 * vectors),
        ...advance(target, 16 * vectors),
      ])
    }
    return times(outer, [
      ...op.set(column, op.get(x)),
      ...op.set(target, op.get(out)),
      ...op.set(left, i32.shrU(op.get(inner), i32.const(4))),
      ...strip(4),
      ...op.set(left, i32.shrU(i32.add(i32.and(op.get(inner), i32.const(15)), i32.const(3)), i32.const(2))),
      ...strip(1),
      ...advance(x, i32.shl(i32.mul(op.get(n), op.get(inner)), i32.const(2))),
      ...advance(out, i32.shl(op.get(inner), i32.const(2))),
    ])
  })
}
