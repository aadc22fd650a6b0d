/**
 * The inner loops of the WebAssembly product: for all pairs of packed panels, a 4x8 block of C in registers.
 * 4x8 because the 8 sums, 2 columns of B and a splat of A fit the 16 vector registers of x64; 6x8 and 4x12 spill and are slower.
 */
import type { ValueType, WasmFunction } from "./wasm-module.ts"
import { type Code, f32x4, op } from "./wasm-op.ts"

/** Rows of a panel of A, columns of a panel of B. */
export const tileRows = 4
export const tileColumns = 8

/** Steps of the inner dimension per turn of the inner loop. */
const unroll = 4

const stepBytes = { a: 4 * tileRows, b: 4 * tileColumns }

// Parameters: addresses of A, B, C; counts of panels; depth; bytes between panels of A and of B, between rows of C; whether C is added to.
const [a, b, c, panelsA, panelsB, depth, strideA, strideB, ldc, accumulate] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] as const
const parameters = 10
// i32 locals.
const [row, rowC, left, atA, atB, to, at] = [10, 11, 12, 13, 14, 15, 16] as const
const integers = 7
// v128 locals: two vectors of B, one element of A in every lane, then the sums, row by row.
const firstVector = parameters + integers
const columns = [firstVector, firstVector + 1] as const
const splat = firstVector + 2
const sum = (r: number, half: number): number => firstVector + 3 + 2 * r + half
const vectors = 3 + 2 * tileRows

const rows = [0, 1, 2, 3] as const
const halves = [0, 1] as const

const move = (local: number, by: Code): Code => [...op.get(local), ...by, ...op.add, ...op.set(local)]
const decrement = (local: number): Code => [
  ...op.get(local),
  ...op.i32(1),
  ...op.sub,
  ...op.set(local),
  ...op.get(local),
]

function step(index: number, relaxed: boolean): Code {
  const load = halves.flatMap((h) => [
    ...op.get(atB),
    ...op.v128Load(index * stepBytes.b + 16 * h),
    ...op.set(columns[h]),
  ])
  const multiply = rows.flatMap((r) => [
    ...[...op.get(atA), ...op.v128LoadSplat(index * stepBytes.a + 4 * r), ...op.set(splat)],
    ...halves.flatMap((h) => {
      const x = [...op.get(splat), ...op.get(columns[h])]
      const old = op.get(sum(r, h))
      const fused = f32x4.relaxedMadd(x, old)
      return [...(relaxed ? fused : [...old, ...x, ...op.f32x4Mul, ...op.f32x4Add]), ...op.set(sum(r, h))]
    }),
  ])
  return [...load, ...multiply]
}

/** `count` steps per turn, as many turns as the local `left` says; nothing when it is 0. */
function turns(count: number, relaxed: boolean): Code {
  return [
    ...op.get(left),
    ...op.when(
      op.loop([
        ...Array.from({ length: count }, (_, i) => step(i, relaxed)).flat(),
        ...move(atA, op.i32(count * stepBytes.a)),
        ...move(atB, op.i32(count * stepBytes.b)),
        ...decrement(left),
      ]),
    ),
  ]
}

/** For each row of the block: the address of C in `at`, then `body`. */
const eachRow = (body: (r: number) => Code): Code => [
  ...op.get(to),
  ...op.set(at),
  ...rows.flatMap((r) => [...body(r), ...(r < tileRows - 1 ? move(at, op.get(ldc)) : [])]),
]

function tile(relaxed: boolean): Code {
  const shift = Math.log2(unroll)
  return [
    ...op.get(accumulate),
    ...op.when(
      eachRow((r) => halves.flatMap((h) => [...op.get(at), ...op.v128Load(16 * h), ...op.set(sum(r, h))])),
      rows.flatMap((r) => halves.flatMap((h) => [...op.v128Zero, ...op.set(sum(r, h))])),
    ),
    ...[...op.get(depth), ...op.i32(shift), ...op.shrU, ...op.set(left)],
    ...turns(unroll, relaxed),
    ...[...op.get(depth), ...op.i32(unroll - 1), ...op.and, ...op.set(left)],
    ...turns(1, relaxed),
    ...eachRow((r) => halves.flatMap((h) => [...op.get(at), ...op.get(sum(r, h)), ...op.v128Store(16 * h)])),
  ]
}

/**
 * (a, b, c, panelsA, panelsB, depth, strideA, strideB, ldc, accumulate). `relaxed` uses the fused multiply-add of relaxed SIMD, which rounds
 * once; not every engine has it.
 */
export function multiplyFunction(relaxed: boolean): WasmFunction {
  const body = op.loop([
    // One panel of B against all panels of A: `row` counts them down, `rowC` and `atA` walk along.
    ...[...op.get(panelsA), ...op.set(row), ...op.get(c), ...op.set(rowC), ...op.get(a), ...op.set(atA)],
    ...op.loop([
      ...[...op.get(rowC), ...op.set(to), ...op.get(b), ...op.set(atB)],
      ...tile(relaxed),
      // The inner loop moved atA through the depth of one panel; the next panel begins strideA after this one's start.
      ...[...op.get(atA), ...op.get(depth), ...op.i32(Math.log2(stepBytes.a)), ...op.shl, ...op.sub],
      ...[...op.get(strideA), ...op.add, ...op.set(atA)],
      ...move(rowC, [...op.get(ldc), ...op.i32(2), ...op.shl]),
      ...decrement(row),
    ]),
    ...move(b, op.get(strideB)),
    ...move(c, op.i32(stepBytes.b)),
    ...decrement(panelsB),
  ])
  const many = (n: number, type: ValueType): ValueType[] => new Array<ValueType>(n).fill(type)
  const locals = [...many(integers, "i32"), ...many(vectors, "v128")]
  return { name: "multiply", params: many(parameters, "i32"), locals, body }
}
