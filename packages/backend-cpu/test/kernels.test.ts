import { randomWords, type Shape, sizeOf } from "@peftjs/core"
import { describe, expect, test } from "vitest"
import { createBackend } from "../src/backend.ts"
import { referenceGemm } from "../src/gemm-reference.ts"
import { createHeap } from "../src/heap.ts"
import { cpu } from "../src/index.ts"
import { distance, floats, numbers, upload, values } from "./helpers.ts"

const gemm = referenceGemm()
const backends = {
  reference: await cpu({ kernels: "reference" }),
  wasm: createBackend(gemm, { kernels: "wasm" }),
  /** A heap of scratch alone: every operand lies outside. */
  staged: createBackend(gemm, { kernels: "wasm" }, 2 ** 31, createHeap(0)),
}

describe.each(Object.entries(backends))("%s", (_, backend) => {
  const { kernels } = backend

  describe("reduce", () => {
    test.each([
      [1, 1, 1],
      [3, 7, 1],
      [5, 64, 1],
      [2, 3, 5],
      [1, 100, 2500],
      [4, 1, 3],
      [3, 0, 2],
      [0, 3, 2],
      [2, 0, 1],
    ])("[%i, %i, %i]", async (outer, n, inner) => {
      for (const dtype of ["f32", "f16", "bf16"] as const) {
        const x = floats(backend, numbers(outer * n * inner), dtype)
        for (const op of ["sum", "max"] as const) {
          const expected = Array.from({ length: outer * inner }, (_, i) => {
            const column = Array.from(
              { length: n },
              (_, k) => x.values[(Math.floor(i / inner) * n + k) * inner + (i % inner)] as number,
            )
            return op === "sum" ? column.reduce((a, b) => a + b, 0) : column.reduce((a, b) => Math.max(a, b), -Infinity)
          })
          const out = kernels.reduce(op, x.buffer, { outer, n, inner })
          expect(out.dtype).toBe("f32")
          expect(distance(await values(backend, out), expected)).toBeLessThan(1e-7)
        }
      }
    })

    test("a long sum keeps its small terms, and NaN is not lost in a maximum", async () => {
      const x = new Float32Array(2_000_001).fill(0.1)
      x[0] = 2 ** 24
      const sum = kernels.reduce("sum", upload(backend, x), { outer: 1, n: x.length, inner: 1 })
      expect(distance(await values(backend, sum), [2 ** 24 + 2_000_000 * Math.fround(0.1)])).toBeLessThan(1e-7)
      for (const inner of [1, 2]) {
        const max = kernels.reduce("max", upload(backend, [1, NaN, 3, 2, 5, 4]), { outer: 1, n: 6 / inner, inner })
        expect((await values(backend, max)).some(Number.isNaN)).toBe(true)
      }
    })

    test("integers are summed as numbers", async () => {
      const out = kernels.reduce("sum", upload(backend, [1, -2, 30], "i32"), { outer: 1, n: 3, inner: 1 })
      expect(await values(backend, out)).toEqual([29])
    })
  })

  describe("gather and scatterAdd", () => {
    test("rows come in the order of the ids, from any float type", async () => {
      for (const dtype of ["f32", "f16", "bf16"] as const) {
        for (const width of [1, 3, 8]) {
          const table = floats(backend, numbers(5 * width), dtype)
          const ids = [4, 0, 0, 2]
          const out = kernels.gather(table.buffer, upload(backend, ids, "i32"), { rows: 5, width, n: 4 })
          expect(out.dtype).toBe("f32")
          expect(await values(backend, out)).toEqual(
            ids.flatMap((i) => [...table.values.subarray(i * width, (i + 1) * width)]),
          )
        }
      }
      const none = kernels.gather(upload(backend, [1, 2]), upload(backend, [], "i32"), { rows: 1, width: 2, n: 0 })
      expect(await values(backend, none)).toEqual([])
    })

    test("equal ids add up, other rows are zero even in reused memory", async () => {
      const dirty = upload(backend, new Float32Array(6).fill(7))
      backend.free(dirty)
      const out = kernels.scatterAdd(upload(backend, [1, 2, 3, 4, 5, 6]), upload(backend, [2, 0, 2], "i32"), {
        rows: 3,
        width: 2,
        n: 3,
      })
      expect(await values(backend, out)).toEqual([3, 4, 0, 0, 6, 8])
    })
  })

  describe("permute", () => {
    test.each<[Shape, readonly number[]]>([
      [[], []],
      [[5], [0]],
      [
        [3, 4],
        [1, 0],
      ],
      [
        [40, 70],
        [1, 0],
      ],
      [
        [2, 3, 4],
        [0, 2, 1],
      ],
      [
        [2, 3, 4],
        [2, 1, 0],
      ],
      [
        [2, 3, 4],
        [1, 2, 0],
      ],
      [
        [2, 3, 4, 5],
        [0, 2, 1, 3],
      ],
      [
        [2, 3, 4, 5],
        [0, 2, 3, 1],
      ],
      [
        [2, 3, 4, 5],
        [3, 1, 2, 0],
      ],
      [
        [2, 1, 4, 1],
        [3, 2, 0, 1],
      ],
      [
        [2, 3, 33, 20],
        [0, 2, 1, 3],
      ],
      [
        [2, 3, 2, 3, 2],
        [4, 2, 0, 3, 1],
      ],
      [
        [2, 0, 3],
        [2, 0, 1],
      ],
    ])("%j by %j", async (shape, axes) => {
      const data = numbers(sizeOf(shape))
      const out = axes.map((a) => shape[a] as number)
      const expected = Array.from({ length: data.length }, (_, flat) => {
        const to = out.map((size, j) => Math.floor(flat / sizeOf(out.slice(j + 1))) % size)
        return data[shape.reduce((p, size, a) => p * size + (to[axes.indexOf(a)] as number), 0)]
      })
      expect(await values(backend, kernels.permute(upload(backend, data), shape, axes))).toEqual(expected)
    })

    test("keeps the element type", async () => {
      const out = kernels.permute(upload(backend, [1, 2, 3, 4, 5, 6], "bf16"), [2, 3], [1, 0])
      expect(out.dtype).toBe("bf16")
      expect(await values(backend, out)).toEqual([1, 4, 2, 5, 3, 6])
    })
  })

  describe("slice and concat", () => {
    test.each([
      [1, 5, 1, 1, 3],
      [3, 4, 2, 1, 2],
      [2, 7, 40, 6, 1],
      [2, 3, 4, 0, 3],
      [2, 3, 4, 1, 0],
      [0, 3, 4, 1, 1],
    ])("slice of [%i, %i, %i] from %i, %i long", async (outer, n, inner, start, length) => {
      const data = numbers(outer * n * inner)
      const out = kernels.slice(upload(backend, data), { outer, n, inner, start, length })
      const expected = Array.from({ length: outer * length * inner }, (_, i) => {
        const o = Math.floor(i / (length * inner))
        return data[o * n * inner + start * inner + (i - o * length * inner)]
      })
      expect(await values(backend, out)).toEqual(expected)
    })

    test("concat is the inverse of slices", async () => {
      const cases: [number, number[], number][] = [
        [2, [3, 0, 5], 4],
        [1, [7], 1],
        [3, [1, 1], 30],
      ]
      for (const [outer, ns, inner] of cases) {
        const n = ns.reduce((a, b) => a + b, 0)
        const whole = upload(backend, numbers(outer * n * inner))
        let start = 0
        const parts = ns.map((length) => {
          start += length
          return kernels.slice(whole, { outer, n, inner, start: start - length, length })
        })
        expect(await backend.read(kernels.concat(parts, { outer, ns, inner }))).toEqual(await backend.read(whole))
      }
    })

    test("a slice that leaves the axis is refused", () => {
      const x = upload(backend, [1, 2, 3])
      expect(() => kernels.slice(x, { outer: 1, n: 3, inner: 1, start: 2, length: 2 })).toThrow(
        expect.objectContaining({ code: "E_INTERNAL" }),
      )
    })
  })

  test("random bits equal core's words for any key and length", async () => {
    for (const key of [
      [0, 0],
      [1, 2],
      [0xffffffff, 0x80000000],
      [0x13198a2e, 0x03707344],
    ] as const) {
      for (const n of [0, 1, 2, 7, 1000]) {
        expect(await backend.read(kernels.randomBits(key, n))).toEqual(randomWords(key, n))
      }
    }
  })
})
