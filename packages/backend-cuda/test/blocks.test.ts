/** Kernels that work in blocks: many small blocks give what one large block gives. On every way into TensorFlow that there is. */
import { type AttentionDims, bytesTable, type DeviceBuffer, type PackedOperand, sizeOf, uniforms } from "@peftjs/core"
import { afterEach, describe, expect, it } from "vitest"
import { createAttention, createAttentionBackward } from "../src/attention.ts"
import { tilesOf } from "../src/attention-tiles.ts"
import { createDevice } from "../src/device.ts"
import { createMatmul } from "../src/matmul.ts"
import { createPackedMatmul } from "../src/packed.ts"
import { absent, runtimes } from "./open.ts"

it.skipIf(absent.length === 0)(`absent: ${absent.join("; ") || "none"}`, ({ skip }) => skip())

const dims: AttentionDims = { batch: 3, queries: 7, keys: 9, heads: 6, kvHeads: 3, dim: 4, scale: 0.5, offset: 2 }

describe("tiles", () => {
  const covered = (limit: number): number[][] => {
    const seen = Array.from({ length: dims.batch * dims.kvHeads }, () => Array<number>(dims.queries).fill(0))
    for (const { pair, pairs, query, queries } of tilesOf(dims, limit))
      for (let p = pair; p < pair + pairs; p++)
        for (let q = query; q < query + queries; q++) (seen[p] as number[])[q] = (seen[p]?.[q] ?? 0) + 1
    return seen
  }
  const perQuery = 2 * 9
  it.each([1, 18, 3 * perQuery, 126, 2 * 126, 3 * 126, 5 * 126, 10 ** 6])(
    "of %i scores hold every query once",
    (limit) => {
      expect(
        covered(limit)
          .flat()
          .every((n) => n === 1),
      ).toBe(true)
      for (const { pair, pairs, queries } of tilesOf(dims, limit)) {
        expect(pairs * queries * perQuery).toBeLessThanOrEqual(Math.max(limit, perQuery))
        // Heads of one text, or whole texts.
        expect(pairs % 3 === 0 ? pair % 3 === 0 : Math.floor(pair / 3) === Math.floor((pair + pairs - 1) / 3)).toBe(
          true,
        )
      }
    },
  )
})

for (const [way, runtime] of runtimes)
  describe(way, () => {
    const device = createDevice(runtime, ["f32", "bf16", "i32", "u8"], 2 ** 20)
    const made: DeviceBuffer[] = []
    const kept = <T extends DeviceBuffer | readonly DeviceBuffer[]>(value: T): T => {
      made.push(...([value].flat() as DeviceBuffer[]))
      return value
    }
    const numbers = (n: number, seed: number): DeviceBuffer => kept(device.upload(uniforms([seed, 0], n, -1, 1), "f32"))
    afterEach(() => {
      for (const buffer of made.splice(0)) device.free(buffer)
    })
    const far = (a: DeviceBuffer, b: DeviceBuffer): number => {
      const [x, y] = [device.read(a), device.read(b)]
      return Math.max(...Array.from(x, (value, i) => Math.abs(value - (y[i] as number))))
    }

    const cases = [
      ["grouped heads", dims, undefined],
      ["a window", { ...dims, window: 3 }, undefined],
      [
        "padding, a query without a key",
        { ...dims, offset: 0 },
        Int32Array.from({ length: 27 }, (_, i) => (i % 9 < 2 ? 0 : 1)),
      ],
    ] as const
    for (const [name, d, hidden] of cases)
      it.each([1, 18, 60, 126, 260, 400])(`attention, ${name}: tiles of %i scores`, (limit) => {
        const [q, dy] = [numbers(3 * 7 * 24, 1), numbers(3 * 7 * 24, 2)]
        const [k, v] = [numbers(3 * 9 * 12, 3), numbers(3 * 9 * 12, 4)]
        const valid = hidden && kept(device.upload(hidden, "i32"))
        const whole = kept(createAttention(device)(q, k, v, valid, d))
        expect(far(kept(createAttention(device, limit)(q, k, v, valid, d)), whole)).toBeLessThan(1e-6)
        const gradients = kept(createAttentionBackward(device)(q, k, v, valid, dy, d))
        const tiled = kept(createAttentionBackward(device, limit)(q, k, v, valid, dy, d))
        for (const [i, gradient] of gradients.entries())
          expect(far(tiled[i] as DeviceBuffer, gradient)).toBeLessThan(1e-6)
      })

    it.each([true, false])("a product with 16-bit rows that are widened a few at a time, transposed: %s", (transB) => {
      const [m, n, k] = [5, 11, 6]
      const x = numbers(m * k, 5)
      const w = kept(
        device.upload(
          Uint16Array.from({ length: n * k }, (_, i) => 0x3f00 + ((i * 53) % 256)),
          "bf16",
        ),
      )
      const sizes = { batch: 1, m, n, k, transA: false, transB }
      const whole = kept(createMatmul(device)(x, w, sizes))
      for (const limit of [1, 13, 40])
        expect(far(kept(createMatmul(device, limit)(x, w, sizes)), whole)).toBeLessThan(1e-6)
    })

    it("no more than one block of packed rows is there at a time", () => {
      const [rows, columns] = [64, 32]
      const layout = { format: "any", bits: 8, codeBook: new Float32Array(256), blockSize: 32, dtype: "f32" } as const
      // The most elements that live handles of ops hold, each handle counted, also where they share memory.
      const sizes = new Map<number, number>()
      let most = 0
      const watched = createDevice(
        {
          ...runtime,
          executeOp(...given) {
            const results = runtime.executeOp(...given)
            for (const { handle, shape } of results) sizes.set(handle, sizeOf(shape))
            most = Math.max(
              most,
              [...sizes.values()].reduce((a, b) => a + b, 0),
            )
            return results
          },
          delete(handle) {
            sizes.delete(handle)
            runtime.delete(handle)
          },
        },
        ["f32", "u8"],
        2 ** 20,
      )
      const w: PackedOperand = {
        ...{ layout, offset: 0, skip: 0, codes: kept(watched.upload(new Uint8Array(rows * columns), "u8")) },
        ...{ scales: numbers(rows, 9), book: kept(watched.upload(bytesTable(layout), "f32")) },
      }
      const run = (limit: number): number => {
        most = 0
        const y = createPackedMatmul(watched, limit)(numbers(columns, 10), w, { m: 1, rows, columns, transpose: false })
        watched.free(y)
        return most
      }
      run(2 ** 20)
      expect(run(2 ** 20)).toBeGreaterThan(rows * columns)
      expect(run(4 * columns)).toBeLessThan((rows * columns) / 2)
    })

    it.each([false, true])("a product with packed rows, a few at a time, transposed: %s", (transpose) => {
      const [m, rows, columns] = [3, 10, 6]
      const layout = {
        format: "any",
        bits: 4,
        codeBook: uniforms([6, 0], 16, -1, 1),
        blockSize: 8,
        dtype: "f32",
      } as const
      const codes = Uint8Array.from({ length: 32 }, (_, i) => (i * 37) % 256)
      const w: PackedOperand = {
        ...{ layout, offset: 2, skip: 0, codes: kept(device.upload(codes, "u8")), scales: numbers(8, 7) },
        book: kept(device.upload(bytesTable(layout), "f32")),
      }
      const x = numbers(m * (transpose ? rows : columns), 8)
      const sizes = { m, rows, columns, transpose }
      const whole = kept(createPackedMatmul(device)(x, w, sizes))
      for (const limit of [1, 13, 40])
        expect(far(kept(createPackedMatmul(device, limit)(x, w, sizes)), whole)).toBeLessThan(1e-6)
    })
  })
