/**
 * The inner loops of the WebAssembly product: for all pairs of packed panels, a 4x8 block of C in registers.
 * 4x8 because the 8 sums, 2 columns of B, 4 rows of A and one of them in every lane fit the 16 vector registers of x64. Blocks of 6x8 and 4x12
 * are faster on some versions of V8 and, where its register allocator spills, a fifth slower on others.
 */
import { advance, times } from "./wasm-loop.ts"
import { type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, f32x4, i32, op, v128 } from "./wasm-op.ts"

/** Rows of a panel of A, columns of a panel of B. */
export const tileRows = 4
export const tileColumns = 8

/** Steps of the inner dimension per turn of the inner loop. */
const unroll = 4

const stepBytes = { a: 4 * tileRows, b: 4 * tileColumns }
const rows = [0, 1, 2, 3] as const
const halves = [0, 1] as const

const parameters = {
  // Addresses.
  a: "i32",
  b: "i32",
  c: "i32",
  // Counts of panels, and their depth.
  panelsA: "i32",
  panelsB: "i32",
  depth: "i32",
  // Bytes between panels of A and of B, and between rows of C.
  strideA: "i32",
  strideB: "i32",
  ldc: "i32",
  // Whether C is added to.
  accumulate: "i32",
} as const

/** (a, b, c, panelsA, panelsB, depth, strideA, strideB, ldc, accumulate). */
export function multiplyFunction(): WasmFunction {
  return wasmFunction("multiply", parameters, (scope) => {
    const { a, b, c, panelsA, panelsB, depth, strideA, strideB, ldc, accumulate } = scope.param
    const integer = (): number => scope.local("i32")
    const vector = (): number => scope.local("v128")
    const [row, rowC, left, atA, atB, at] = [integer(), integer(), integer(), integer(), integer(), integer()]
    const [four, one] = [vector(), vector()]
    const columns = halves.map(vector)
    const sums = rows.map(() => halves.map(vector))
    /** All sums, row by row. */
    const each = (body: (sum: number, half: number) => Code): Code => sums.flatMap((row) => row.flatMap(body))

    // One load and four shuffles: V8 of Node 20 and 22 makes two instructions of a load into every lane.
    const step = (index: number): Code => [
      ...columns.flatMap((x, h) => op.set(x, v128.load(op.get(atB), index * stepBytes.b + 16 * h))),
      ...op.set(four, v128.load(op.get(atA), index * stepBytes.a)),
      ...sums.flatMap((row, r) => [
        ...op.set(one, v128.shuffle32([r, r, r, r], op.get(four), op.get(four))),
        ...row.flatMap((sum, h) =>
          op.set(sum, scope.multiplyAdd(op.get(one), op.get(columns[h] as number), op.get(sum))),
        ),
      ]),
    ]
    const turns = (count: number): Code =>
      times(left, [
        ...Array.from({ length: count }, (_, i) => step(i)).flat(),
        ...advance(atA, count * stepBytes.a),
        ...advance(atB, count * stepBytes.b),
      ])
    /** The rows of C: `at` is where each begins. */
    const alongC = (body: (sum: number, half: number) => Code): Code => [
      ...op.set(at, op.get(rowC)),
      ...sums.flatMap((row, r) => [...row.flatMap(body), ...(r < tileRows - 1 ? advance(at, op.get(ldc)) : [])]),
    ]
    const tile = [
      ...op.get(accumulate),
      ...op.when(
        alongC((sum, h) => op.set(sum, v128.load(op.get(at), 16 * h))),
        each((sum) => op.set(sum, f32x4.splatOf(0))),
      ),
      ...[...op.set(left, i32.shrU(op.get(depth), i32.const(Math.log2(unroll)))), ...turns(unroll)],
      ...[...op.set(left, i32.and(op.get(depth), i32.const(unroll - 1))), ...turns(1)],
      ...alongC((sum, h) => v128.store(op.get(at), op.get(sum), 16 * h)),
    ]
    const depthBytes = i32.shl(op.get(depth), i32.const(Math.log2(stepBytes.a)))
    return times(panelsB, [
      // One panel of B against all panels of A: `row` counts them down, `rowC` and `atA` walk along.
      ...[...op.set(row, op.get(panelsA)), ...op.set(rowC, op.get(c)), ...op.set(atA, op.get(a))],
      ...times(row, [
        ...op.set(atB, op.get(b)),
        ...tile,
        // The inner loop moved atA through the depth of one panel; the next panel begins strideA after this one's start.
        ...advance(atA, i32.sub(op.get(strideA), depthBytes)),
        ...advance(rowC, i32.shl(op.get(ldc), i32.const(Math.log2(tileRows)))),
      ]),
      ...advance(b, op.get(strideB)),
      ...advance(c, stepBytes.b),
    ])
  })
}
