/** Softmax of rows, of parts of rows, its gradient and its normaliser, in WebAssembly. */
import { largest, type Row, rowOf, sum } from "./row-pass.ts"
import { exp, log } from "./wasm-functions.ts"
import { advance, times } from "./wasm-loop.ts"
import { type Scope, type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, f32, f32x4, i32, i32x4, op, v128 } from "./wasm-op.ts"

const { add, sub, mul, div, splatOf } = f32x4

/** y = exp(x - base) and, in `total`, its sum. base is the largest x, or 0 where that is -Infinity: then the sum is 0, or NaN beside NaN. */
function exponentials(scope: Scope, row: Row, x: number, y: number | undefined, base: number, total: number): Code {
  const term = scope.local("v128")
  return [
    ...row.fold(largest, [base], (at) => [at.load(x)]),
    ...op.set(
      base,
      v128.bitselect(splatOf(0), op.get(base), f32x4.eq(op.get(base), splatOf(Number.NEGATIVE_INFINITY))),
    ),
    ...row.fold(sum, [total], (at) => {
      const value = exp(scope, sub(at.load(x), op.get(base)))
      if (y === undefined) return [value]
      return [[...op.set(term, value), ...at.store(y, op.get(term)), ...op.get(term)]]
    }),
  ]
}

/** log Σ exp of a row at an address. */
const normaliser = (scope: Scope, to: number, base: number, total: number): Code =>
  f32.store(op.get(to), f32x4.extractLane(0, add(op.get(base), log(scope, op.get(total)))))

const softmax = (): WasmFunction =>
  // `out`: address of each row's log Σ exp; or 0.
  wasmFunction("softmax", { x: "i32", y: "i32", rows: "i32", n: "i32", out: "i32" }, (scope) => {
    const { x, y, rows, n, out } = scope.param
    const row = rowOf(scope, n)
    const [base, scale, bytes] = [scope.local("v128"), scope.local("v128"), scope.local("i32")]
    const each = [
      ...exponentials(scope, row, x, y, base, scale),
      ...op.get(out),
      ...op.when([...normaliser(scope, out, base, scale), ...advance(out, 4)]),
      ...op.set(scale, div(splatOf(1), op.get(scale))),
      ...row.pass((at) => at.store(y, mul(at.load(y), op.get(scale)))),
      ...advance(x, op.get(bytes)),
      ...advance(y, op.get(bytes)),
    ]
    return [...row.begin, ...op.set(bytes, i32.shl(op.get(n), i32.const(2))), ...times(rows, each)]
  })

const logSumExp = (): WasmFunction =>
  wasmFunction("logSumExp", { x: "i32", out: "i32", rows: "i32", n: "i32" }, (scope) => {
    const { x, out, rows, n } = scope.param
    const row = rowOf(scope, n)
    const [base, total] = [scope.local("v128"), scope.local("v128")]
    const each = [
      ...exponentials(scope, row, x, undefined, base, total),
      ...normaliser(scope, out, base, total),
      ...advance(x, i32.shl(op.get(n), i32.const(2))),
      ...advance(out, 4),
    ]
    return [...row.begin, ...times(rows, each)]
  })

const visible = {
  x: "i32",
  rows: "i32",
  width: "i32",
  // Row r sees columns j with r + before < j ≤ r + last.
  before: "i32",
  last: "i32",
  // Address of i32 [width], columns that hold 0 are hidden; or 0.
  mask: "i32",
} as const

/** Softmax in place over what each row sees, 0 elsewhere; a row that sees nothing becomes 0. */
const visibleSoftmax = (): WasmFunction =>
  wasmFunction("visibleSoftmax", visible, (scope) => {
    const { x, rows, width, before, last, mask } = scope.param
    const [from, to, n] = [scope.local("i32"), scope.local("i32"), scope.local("i32")]
    const [start, bits] = [scope.local("i32"), scope.local("i32")]
    const [base, scale] = [scope.local("v128"), scope.local("v128")]
    const row = rowOf(scope, n)
    const lanes = (value: Code): Code => i32x4.splat(value)
    const clamped = (value: Code, low: Code): Code =>
      i32x4.extractLane(0, i32x4.minU(i32x4.maxS(lanes(value), lanes(low)), lanes(op.get(width))))
    const bytes = (count: Code): Code => i32.shl(count, i32.const(2))
    const hidden = splatOf(Number.NEGATIVE_INFINITY)
    const none = f32x4.eq(op.get(scale), splatOf(0))
    const each = [
      ...op.set(from, clamped(i32.add(op.get(before), i32.const(1)), i32.const(0))),
      ...op.set(to, clamped(i32.add(op.get(last), i32.const(1)), op.get(from))),
      ...op.set(n, i32.sub(op.get(to), op.get(from))),
      ...op.set(start, i32.add(op.get(x), bytes(op.get(from)))),
      ...row.begin,
      ...op.get(mask),
      ...op.when([
        ...op.set(bits, i32.add(op.get(mask), bytes(op.get(from)))),
        ...row.pass((at) =>
          at.store(start, v128.bitselect(at.load(start), hidden, i32x4.ne(at.load(bits), i32x4.splatOf(0)))),
        ),
      ]),
      ...exponentials(scope, row, start, start, base, scale),
      // Of a row that sees nothing the exponentials are 0, and stay it.
      ...op.set(scale, div(splatOf(1), v128.bitselect(splatOf(1), op.get(scale), none))),
      ...row.pass((at) => at.store(start, mul(at.load(start), op.get(scale)))),
      ...op.fill(op.get(x), i32.const(0), bytes(op.get(from))),
      ...op.fill(i32.add(op.get(x), bytes(op.get(to))), i32.const(0), bytes(i32.sub(op.get(width), op.get(to)))),
      ...advance(x, bytes(op.get(width))),
      ...advance(before, 1),
      ...advance(last, 1),
    ]
    return times(rows, each)
  })

/** ds = scale · p · (ds - Σ p·ds), in place, row by row. */
const softmaxBackward = (): WasmFunction =>
  wasmFunction("softmaxBackward", { p: "i32", ds: "i32", rows: "i32", n: "i32", scale: "f32" }, (scope) => {
    const { p, ds, rows, n, scale } = scope.param
    const row = rowOf(scope, n)
    const [dot, factor, bytes] = [scope.local("v128"), scope.local("v128"), scope.local("i32")]
    const each = [
      ...row.fold(sum, [dot], (at) => [mul(at.load(p), at.load(ds))]),
      ...row.pass((at) => at.store(ds, mul(mul(op.get(factor), at.load(p)), sub(at.load(ds), op.get(dot))))),
      ...advance(p, op.get(bytes)),
      ...advance(ds, op.get(bytes)),
    ]
    return [
      ...row.begin,
      ...op.set(bytes, i32.shl(op.get(n), i32.const(2))),
      ...op.set(factor, f32x4.splat(op.get(scale))),
      ...times(rows, each),
    ]
  })

export const softmaxFunctions = (): WasmFunction[] => [softmax(), logSumExp(), visibleSoftmax(), softmaxBackward()]
