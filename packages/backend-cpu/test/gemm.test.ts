import { describe, expect, test } from "vitest"
import { type CpuBuffer, createMemory } from "../src/buffers.ts"
import type { Gemm, Matrix } from "../src/gemm.ts"
import { blasGemm } from "../src/gemm-blas.ts"
import { referenceGemm } from "../src/gemm-reference.ts"
import { selfTest } from "../src/gemm-self-test.ts"
import { wasmGemm } from "../src/gemm-wasm.ts"
import { createHeap, type Heap } from "../src/heap.ts"
import { findBlas } from "../src/node-blas.ts"
import { bf16Value, distance, f16Value, numbers } from "./helpers.ts"

type Type = Matrix["dtype"]

/** An operand at an offset with a gap between rows, and its values in f64 as [rows, columns] of op(x). */
function operand(
  rows: number,
  columns: number,
  trans: boolean,
  dtype: Type,
  seed: number,
): { matrix: Matrix; at: (i: number, j: number) => number } {
  const [offset, gap] = [5, 3]
  const ld = (trans ? rows : columns) + gap
  const f32 = numbers(offset + (trans ? columns : rows) * ld, seed)
  const bits = new Uint32Array(f32.buffer)
  // The upper half of an f32 is a bf16; patterns of f16 between 0x3800 and 0x3fff are numbers from 0.5 to 2.
  const data =
    dtype === "f32" ? f32 : Uint16Array.from(bits, (u) => (dtype === "bf16" ? u >>> 16 : 0x3800 + (u % 2048)))
  const value = dtype === "f32" ? (x: number) => x : dtype === "bf16" ? bf16Value : f16Value
  return {
    matrix: { data, dtype, offset, ld, trans },
    at: (i, j) => value(data[offset + (trans ? j * ld + i : i * ld + j)] as number),
  }
}

function check(
  gemm: Gemm,
  m: number,
  n: number,
  k: number,
  ta: boolean,
  tb: boolean,
  da: Type,
  db: Type,
  alpha = 1,
  beta: 0 | 1 = 0,
): number {
  const a = operand(m, k, ta, da, 1)
  const b = operand(k, n, tb, db, 2)
  const [offset, ld] = [2, n + 4]
  const c = numbers(offset + m * ld, 3)
  if (beta === 0) for (let i = 0; i < m; i++) c.fill(NaN, offset + i * ld, offset + i * ld + n)
  const expected = Float64Array.from(c)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let p = 0; p < k; p++) sum += a.at(i, p) * b.at(p, j)
      const at = offset + i * ld + j
      expected[at] = alpha * sum + (beta === 1 ? (c[at] as number) : 0)
    }
  }
  gemm.run(m, n, k, alpha, a.matrix, b.matrix, beta, c, offset, ld)
  return distance(c, expected) / Math.sqrt(1 + k)
}

/** sgemm as loops, with a scratch limit so small that every 16-bit operand is cut into parts. */
const loops = blasGemm((transA, transB, m, n, k, alpha, a, offsetA, lda, b, offsetB, ldb, beta, c, offsetC, ldc) => {
  const dtype = "f32"
  referenceGemm().run(
    m,
    n,
    k,
    alpha,
    { dtype, data: a, offset: offsetA, ld: lda, trans: transA },
    { dtype, data: b, offset: offsetB, ld: ldb, trans: transB },
    beta as 0 | 1,
    c,
    offsetC,
    ldc,
  )
}, 300)

/** A product whose f32 operands lie in the heap it works on, and C too. */
function inside(gemm: Gemm | undefined): Gemm | undefined {
  const heap = createHeap()
  if (gemm?.on === undefined || heap === undefined) return undefined
  const own = gemm.on(heap)
  const memory = createMemory(2 ** 31, heap)
  return {
    name: gemm.name,
    run(m, n, k, alpha, a, b, beta, c, offset, ld) {
      const [x, y, z] = [a, b, { data: c, dtype: "f32" as const }].map(({ data, dtype }) => memory.upload(data, dtype))
      const moved = (matrix: Matrix, buffer: CpuBuffer | undefined): Matrix => ({
        ...matrix,
        data: buffer?.data as Matrix["data"],
      })
      own.run(m, n, k, alpha, moved(a, x), moved(b, y), beta, z?.data as Float32Array, offset, ld)
      c.set(z?.data as Float32Array)
      for (const buffer of [x, y, z]) if (buffer) memory.free(buffer)
    },
  }
}

const blas = await findBlas(process.env.PEFT_BLAS)
const levels: [string, Gemm | undefined][] = [
  ["reference", referenceGemm()],
  ["wasm", wasmGemm()],
  ["wasm, in its heap", inside(wasmGemm())],
  ["blas's cutting over loops", loops],
  ["blas's cutting on a heap", loops.on?.(createHeap() as Heap)],
  [blas ? `blas (${blas.core})` : "blas: NONE FOUND on this machine, so not tested; set PEFT_BLAS", blas?.gemm],
]

describe.each(levels)("%s", (_, gemm) => {
  const types = ["f32", "f16", "bf16"] as const
  const flags = [false, true]

  test.skipIf(!gemm)("every type and transposition, at offsets and with gaps", () => {
    for (const da of types)
      for (const db of types)
        for (const ta of flags)
          for (const tb of flags) {
            for (const [m, n, k] of [
              [13, 21, 34],
              [1, 70, 33],
              [37, 1, 65],
              [5, 9, 1],
            ] as const) {
              expect(check(gemm as Gemm, m, n, k, ta, tb, da, db), `${[m, n, k, ta, tb, da, db]}`).toBeLessThan(1e-6)
            }
          }
  })

  test.skipIf(!gemm)("sizes around the blocks' edges", () => {
    for (const [m, n, k] of [
      [4, 8, 4],
      [3, 7, 5],
      [5, 9, 257],
      [64, 64, 256],
      [513, 17, 20],
      [9, 2050, 11],
      [6, 10, 2049],
      [2, 2, 2],
      [257, 258, 12],
      [140, 130, 160],
    ] as const) {
      for (const tb of flags)
        expect(check(gemm as Gemm, m, n, k, false, tb, "f32", "f32"), `${[m, n, k]}`).toBeLessThan(1e-6)
    }
  })

  test.skipIf(!gemm)("alpha scales, beta adds", () => {
    for (const size of [3, 30]) {
      for (const beta of [0, 1] as const) {
        for (const dtype of types) {
          expect(check(gemm as Gemm, size, size + 1, size + 2, true, true, "f32", dtype, 0.25, beta)).toBeLessThan(1e-6)
        }
      }
    }
  })

  test.skipIf(!gemm)("empty sizes: nothing is touched, or zeros are written", () => {
    const x: Matrix = { data: new Float32Array(0), dtype: "f32", offset: 0, ld: 1, trans: false }
    const c = Float32Array.of(1, 2, 3, 4, 5, 6)
    gemm?.run(0, 3, 2, 1, x, x, 0, c, 0, 3)
    gemm?.run(2, 0, 2, 1, x, x, 0, c, 0, 3)
    gemm?.run(2, 2, 0, 1, x, x, 1, c, 0, 3)
    expect([...c]).toEqual([1, 2, 3, 4, 5, 6])
    gemm?.run(2, 2, 0, 1, x, x, 0, c, 0, 3)
    expect([...c]).toEqual([0, 0, 3, 0, 0, 6])
  })

  test.skipIf(!gemm)("NaN and infinity come through", () => {
    const a = new Float32Array(16 * 16).fill(1)
    a[0] = NaN
    a[16] = Infinity
    const c = new Float32Array(16 * 16)
    const x: Matrix = { data: a, dtype: "f32", offset: 0, ld: 16, trans: false }
    gemm?.run(16, 16, 16, 1, x, { ...x, data: new Float32Array(256).fill(1) }, 0, c, 0, 16)
    expect(c[0]).toBeNaN()
    expect(c[16]).toBe(Infinity)
    expect(c[32]).toBe(16)
  })

  test.skipIf(!gemm)("passes the self-test", () => {
    expect(selfTest(gemm as Gemm)).toBeUndefined()
  })
})

test("the self-test notices each way to be wrong", () => {
  const right = referenceGemm()
  const wrongs: Gemm["run"][] = [
    (m, n, k, alpha, a, b, beta, c, o, ld) => right.run(m, n, k, alpha, a, { ...b, trans: false }, beta, c, o, ld),
    (m, n, k, alpha, a, b, beta, c, o, ld) => right.run(m, n, k, alpha, { ...a, trans: false }, b, beta, c, o, ld),
    (m, n, k, _, a, b, beta, c, o, ld) => right.run(m, n, k, 1, a, b, beta, c, o, ld),
    (m, n, k, alpha, a, b, _, c, o, ld) => right.run(m, n, k, alpha, a, b, 0, c, o, ld),
    (m, n, k, alpha, a, b, beta, c, o, ld) => right.run(m, n, k - 1, alpha, a, b, beta, c, o, ld),
    (m, n, k, alpha, a, b, beta, c, o) => right.run(m, n, k, alpha, a, b, beta, c, o, n),
  ]
  for (const run of wrongs) expect(selfTest({ name: "blas", run })).toContain("is off by")
})
