/** Normalisation of rows and its gradients, in WebAssembly. Formulas are in rms-norm.ts and layer-norm.ts. */
import { type Row, rowOf, sum } from "./row-pass.ts"
import { advance, times } from "./wasm-loop.ts"
import { type Scope, type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, f32x4, i32, i32x4, op } from "./wasm-op.ts"

const { add, sub, mul, div, sqrt, splatOf } = f32x4

interface Parts<Name extends string> {
  readonly row: Row
  /** Addresses of the row in arrays that have rows, and of what all rows share. */
  readonly param: Readonly<Record<Name, number>>
  local(): number
  /** n, and eps, in every lane. */
  readonly n: Code
  readonly eps: Code
}

/** A function of addresses and (rows, n, eps): `body` is run for every row; arrays in `shared` have one row. */
function overRows<Name extends string>(
  name: string,
  arrays: readonly Name[],
  shared: readonly Name[],
  body: (parts: Parts<Name>) => Code,
): WasmFunction {
  const addresses = Object.fromEntries(arrays.map((a) => [a, "i32"])) as Record<Name, "i32">
  return wasmFunction(name, { ...addresses, rows: "i32", n: "i32", eps: "f32" } as const, (scope: Scope) => {
    const { rows, n, eps } = scope.param as Record<"rows" | "n" | "eps", number>
    const param = scope.param as Record<Name, number>
    const [bytes, length, small] = [scope.local("i32"), scope.local("v128"), scope.local("v128")]
    const row = rowOf(scope, n)
    const each = body({ row, param, local: () => scope.local("v128"), n: op.get(length), eps: op.get(small) })
    const moves = arrays.filter((a) => !shared.includes(a)).flatMap((a) => advance(param[a], op.get(bytes)))
    return [
      ...row.begin,
      ...op.set(bytes, i32.shl(op.get(n), i32.const(2))),
      ...op.set(length, f32x4.convertS(i32x4.splat(op.get(n)))),
      ...op.set(small, f32x4.splat(op.get(eps))),
      ...times(rows, [...each, ...moves]),
    ]
  })
}

/** 1 / sqrt(squares / n + eps). */
const inverseRoot = (squares: number, n: Code, eps: Code): Code =>
  div(splatOf(1), sqrt(add(div(op.get(squares), n), eps)))

const rmsNorm = (): WasmFunction =>
  overRows("rmsNorm", ["x", "w", "y"], ["w"], ({ row, param: { x, w, y }, local, n, eps }) => {
    const scale = local()
    return [
      ...row.fold(sum, [scale], (at) => [mul(at.load(x), at.load(x))]),
      ...op.set(scale, inverseRoot(scale, n, eps)),
      ...row.pass((at) => at.store(y, mul(mul(at.load(x), op.get(scale)), at.load(w)))),
    ]
  })

const rmsNormBackward = (): WasmFunction =>
  overRows("rmsNormBackward", ["x", "w", "dy", "dx"], ["w"], ({ row, param: { x, w, dy, dx }, local, n, eps }) => {
    const [scale, along] = [local(), local()]
    const s = op.get(scale)
    return [
      ...row.fold(sum, [scale, along], (at) => [
        mul(at.load(x), at.load(x)),
        mul(mul(at.load(x), at.load(w)), at.load(dy)),
      ]),
      ...op.set(scale, inverseRoot(scale, n, eps)),
      ...op.set(along, div(mul(mul(mul(op.get(along), s), s), s), n)),
      ...row.pass((at) => at.store(dx, sub(mul(mul(at.load(dy), at.load(w)), s), mul(at.load(x), op.get(along))))),
    ]
  })

/** What a row's mean and variance are kept in, and how its elements are normalised with them. */
interface Moments {
  readonly begin: Code
  normal(value: Code): Code
  readonly scale: Code
}

/**
 * The mean is rounded, and so is in error by more than the elements' distance to it may allow; what their distances to the rounded one add up
 * to is nearly exact and makes up for it.
 */
function moments({ row, n, eps, local }: Pick<Parts<never>, "row" | "n" | "eps" | "local">, x: number): Moments {
  const [mean, shift, scale] = [local(), local(), local()]
  const away = (value: Code): Code => sub(value, op.get(mean))
  return {
    begin: [
      ...row.fold(sum, [mean], (at) => [at.load(x)]),
      ...op.set(mean, div(op.get(mean), n)),
      ...row.fold(sum, [shift, scale], (at) => [away(at.load(x)), mul(away(at.load(x)), away(at.load(x)))]),
      ...op.set(shift, div(op.get(shift), n)),
      ...op.set(scale, sub(op.get(scale), mul(mul(op.get(shift), op.get(shift)), n))),
      ...op.set(scale, inverseRoot(scale, n, eps)),
    ],
    normal: (value) => mul(sub(away(value), op.get(shift)), op.get(scale)),
    scale: op.get(scale),
  }
}

const layerNorm = (): WasmFunction =>
  overRows("layerNorm", ["x", "w", "b", "y"], ["w", "b"], ({ param: { x, w, b, y }, ...parts }) => {
    const { begin, normal } = moments(parts, x)
    return [...begin, ...parts.row.pass((at) => at.store(y, add(mul(normal(at.load(x)), at.load(w)), at.load(b))))]
  })

const layerNormBackward = (): WasmFunction =>
  overRows("layerNormBackward", ["x", "w", "dy", "dx"], ["w"], ({ param: { x, w, dy, dx }, ...parts }) => {
    const { begin, normal, scale } = moments(parts, x)
    const [total, along] = [parts.local(), parts.local()]
    return [
      ...begin,
      ...parts.row.fold(sum, [total, along], (at) => [
        mul(at.load(w), at.load(dy)),
        mul(mul(at.load(w), at.load(dy)), normal(at.load(x))),
      ]),
      ...op.set(total, div(op.get(total), parts.n)),
      ...op.set(along, div(op.get(along), parts.n)),
      ...parts.row.pass((at) => {
        const rest = sub(mul(at.load(w), at.load(dy)), op.get(total))
        return at.store(dx, mul(scale, sub(rest, mul(normal(at.load(x)), op.get(along)))))
      }),
    ]
  })

/** Of (addresses…, rows, n, eps). */
export const normFunctions = (): WasmFunction[] => [rmsNorm(), rmsNormBackward(), layerNorm(), layerNormBackward()]
