/** Products straight from packed bytes, as GPUs compute them that are no program on the CPU: every variant of matmul over both widths of code. */
import { bytesTable, type PackedLayout, type PackedOperand, uniforms } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import type { Gpu } from "../src/gpu.ts"
import { createPackedMatmul, createUnpack } from "../src/packed.ts"
import { absent, openGpu } from "./gpu.ts"

const numbers = (stream: number, n: number, low = -1): Float32Array => uniforms([stream, 11], n, low, 1)
const bytes = (stream: number, n: number): Uint8Array => Uint8Array.from(numbers(stream, n, 0), (x) => x * 256)

interface Shape {
  readonly bits: 4 | 8
  readonly rows: number
  readonly columns: number
  readonly blockSize: number
  readonly offset: number
  readonly nested: boolean
  readonly minimums?: true
  readonly dtype: PackedLayout["dtype"]
}
const shapes: readonly Shape[] = [
  { bits: 4, rows: 70, columns: 96, blockSize: 64, offset: 32, nested: true, dtype: "bf16" },
  { bits: 8, rows: 33, columns: 35, blockSize: 35, offset: 0, nested: false, dtype: "f32" },
  { bits: 4, rows: 66, columns: 96, blockSize: 32, offset: 0, nested: false, minimums: true, dtype: "f32" },
]

describe.skipIf(absent !== undefined)("packed matrices on hardware", () => {
  for (const shape of shapes)
    it(`[${shape.rows}, ${shape.columns}] of ${shape.bits} bits${shape.minimums ? " and minimums" : ""}`, async () => {
      const gpu = await openGpu()
      const features = { ...gpu.features, software: false, subgroups: false }
      const other: Gpu = { ...gpu, features, program: (key, build) => gpu.program(key, build) }
      const { bits, rows, columns, blockSize, offset, nested, minimums, dtype } = shape
      const blocks = Math.ceil((offset + rows * columns) / blockSize)
      const layout: PackedLayout = {
        ...{ format: "packed", bits, codeBook: numbers(1, 2 ** bits), blockSize, dtype },
        ...(nested ? { nested: { codeBook: numbers(2, 256), blockSize: 16, offset: 0.5 } } : {}),
      }
      const skip = 5
      const outer = Math.ceil((skip + blocks) / 16)
      const w: PackedOperand = {
        ...{ layout, offset, skip },
        codes: gpu.upload(bytes(3, (blocks * blockSize * bits) / 8), "u8"),
        book: gpu.upload(bytesTable(layout), "f32"),
        scales: nested ? gpu.upload(bytes(4, outer * 16), "u8") : gpu.upload(numbers(4, skip + blocks), "f32"),
        ...(minimums ? { minimums: gpu.upload(numbers(7, blocks), "f32") } : {}),
        ...(layout.nested
          ? {
              nested: { scales: gpu.upload(numbers(5, outer), "f32"), book: gpu.upload(layout.nested.codeBook, "f32") },
            }
          : {}),
      }
      const before = gpu.live()
      const dense = createUnpack(gpu)(w, { start: 0, end: rows, columns })
      const values = await gpu.read(dense)
      // A row by itself, a few rows, a tile: the variants a GPU chooses.
      for (const m of [1, 5, 40])
        for (const transpose of [false, true]) {
          const [n, k] = transpose ? [columns, rows] : [rows, columns]
          const data = numbers(6, m * k)
          const x = gpu.upload(data, "f32")
          const out = createPackedMatmul(other)(x, w, { m, rows, columns, transpose })
          const found = await gpu.read(out)
          expect(found.length).toBe(m * n)
          for (const [at, value] of found.entries()) {
            const [i, j] = [Math.floor(at / n), at % n]
            let sum = 0
            for (let q = 0; q < k; q++)
              sum += (data[i * k + q] as number) * (values[transpose ? q * columns + j : j * columns + q] as number)
            expect(Math.abs(value - sum), `${m} ${transpose} [${i}, ${j}]`).toBeLessThan(1e-5 * (1 + Math.abs(sum)))
          }
          for (const buffer of [x, out]) gpu.free(buffer)
        }
      gpu.free(dense)
      expect(gpu.live()).toBe(before)
      const own = [w.codes, w.book, w.scales, w.minimums, w.nested?.scales, w.nested?.book]
      for (const buffer of own) if (buffer) gpu.free(buffer)
    })
})
