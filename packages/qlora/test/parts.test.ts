/** Weights in several parts: blocks, and blocks of scales, that begin in one part and end in the next. */
import { cpu } from "@peftjs/backend-cpu"
import { engineOf, free, keyOf, normals, scope, tensor, type Weight, type WeightFormat } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { fp4, int8, nf4 } from "../src/index.ts"
import { encoded, largest, storedOf, valuesOf } from "./helpers.ts"

const shape = [70, 77] as const
const values = normals(keyOf(0, "parts"), shape[0] * shape[1], 0.1)
const x = normals(keyOf(1, "parts"), 3 * shape[1], 1)
const dy = normals(keyOf(2, "parts"), 3 * shape[0], 1)
const ids = Int32Array.of(69, 0, 31, 32, 31)

const formats: Readonly<Record<string, WeightFormat>> = {
  nf4: nf4(),
  "nf4, doubly quantised": nf4({ blockSize: 32, doubleQuant: true }),
  "fp4, large blocks": fp4({ blockSize: 256, doubleQuant: true }),
  int8: int8(),
}

async function results(weight: Weight, backend: Awaited<ReturnType<typeof cpu>>): Promise<Float32Array[]> {
  const made = scope(engineOf(backend), () => [
    weight.matmul(tensor(backend, x, [3, shape[1]])),
    weight.matmul(tensor(backend, dy, [1, 3, shape[0]]), { transpose: true }),
    weight.rows({ start: 29, end: 41 }),
    weight.rows(tensor(backend, ids, [5, 1], "i32")),
  ])
  expect(made.map((t) => t.shape)).toEqual([
    [3, 70],
    [1, 3, 77],
    [12, 77],
    [5, 1, 77],
  ])
  const found = await Promise.all(made.map((t) => t.data() as Promise<Float32Array>))
  for (const t of made) free(t)
  return found
}

describe.each(Object.entries(formats))("%s", (_, format) => {
  it.each([{ kernels: "reference" }, {}] as const)(
    "in parts it is what it is as a whole, kernels %o",
    async (options) => {
      const [one, many] = [await cpu(options), await cpu({ ...options, maxBufferBytes: 4096 })]
      const [whole, split] = [
        await encoded(format, values, shape, { backend: one }),
        await encoded(format, values, shape, { backend: many }),
      ]
      expect(whole.parts).toHaveLength(1)
      expect(split.parts.length).toBeGreaterThan(5)
      const [a, b] = [await results(whole, one), await results(split, many)]
      for (const [i, found] of b.entries()) expect(largest(found, a[i] ?? []), `result ${i}`).toBeLessThan(1e-5)
      expect(await storedOf(split)).toEqual(await storedOf(whole))
      const dense = await valuesOf(whole)
      expect(largest(a[2] ?? [], dense.subarray(29 * 77, 41 * 77))).toBe(0)
      expect([...ids].flatMap((id) => [...dense.subarray(id * 77, (id + 1) * 77)])).toEqual([...(a[3] ?? [])])
      for (const [weight, backend] of [
        [whole, one],
        [split, many],
      ] as const) {
        weight.free()
        expect(engineOf(backend).liveBuffers).toBe(0)
      }
    },
  )
})

it("two weights share a code book, and the last one takes it along", async () => {
  const backend = await cpu()
  const alone = await encoded(nf4(), values, shape, { backend })
  const before = engineOf(backend).liveBuffers
  const second = await encoded(nf4(), values, shape, { backend })
  expect(engineOf(backend).liveBuffers).toBe(before + 2)
  alone.free()
  expect(await valuesOf(second)).toHaveLength(values.length)
  second.free()
  expect(engineOf(backend).liveBuffers).toBe(0)
})

it("a row that fits into no buffer is an error", async () => {
  const backend = await cpu({ maxBufferBytes: 512 })
  await expect(encoded(nf4(), values, shape, { backend })).rejects.toThrow(/row of 77 values.*E_BUFFER_SIZE/)
  expect(engineOf(backend).liveBuffers).toBe(0)
})
