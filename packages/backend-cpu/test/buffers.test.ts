import { expect, test } from "vitest"
import { createMemory } from "../src/buffers.ts"
import { cpu } from "../src/index.ts"

test("upload copies, read copies", async () => {
  const backend = await cpu({ kernels: "reference" })
  const host = Float32Array.of(1, 2, 3)
  const buffer = backend.upload(host, "f32")
  host[0] = 9
  const first = await backend.read(buffer)
  expect([...first]).toEqual([1, 2, 3])
  first[1] = 9
  expect([...(await backend.read(buffer))]).toEqual([1, 2, 3])
})

test("every element type goes up and comes back", async () => {
  const backend = await cpu({ kernels: "reference" })
  const cases = [
    [Float32Array.of(1.5, -0, Infinity), "f32"],
    [Uint16Array.of(0, 0xffff, 0x3c00), "f16"],
    [Uint16Array.of(0, 0xffff, 0x3f80), "bf16"],
    [Int32Array.of(-1, 2 ** 31 - 1), "i32"],
    [Uint32Array.of(2 ** 32 - 1, 0), "u32"],
    [Uint8Array.of(255, 0, 7), "u8"],
    [new Float32Array(0), "f32"],
  ] as const
  for (const [data, dtype] of cases) {
    const buffer = backend.upload(data, dtype)
    expect(buffer).toMatchObject({ dtype, length: data.length })
    expect(await backend.read(buffer)).toEqual(data)
  }
})

test("free twice, use after free, foreign buffers and too large ones are coded errors", async () => {
  const backend = await cpu({ kernels: "reference", maxBufferBytes: 64 })
  const buffer = backend.upload(new Float32Array(4), "f32")
  backend.free(buffer)
  expect(() => backend.free(buffer)).toThrow(expect.objectContaining({ code: "E_INTERNAL" }))
  await expect(backend.read(buffer)).rejects.toMatchObject({ code: "E_INTERNAL" })
  expect(() => backend.free({ dtype: "f32", length: 1 })).toThrow(expect.objectContaining({ code: "E_INTERNAL" }))
  expect(() => backend.upload(new Float32Array(17), "f32")).toThrow(expect.objectContaining({ code: "E_BUFFER_SIZE" }))
  expect(() => backend.kernels.randomBits([1, 2], 17)).toThrow(expect.objectContaining({ code: "E_BUFFER_SIZE" }))
  expect(() => backend.upload(new Float32Array(1), "f64" as "f32")).toThrow(
    expect.objectContaining({ code: "E_UNSUPPORTED" }),
  )
})

test("a repeated step allocates nothing, and memory never far exceeds what was live", () => {
  const memory = createMemory(2 ** 31)
  const step = (scale: number) => {
    const held = [1000, 50_000, 50_000, 300_000].map((n) => memory.alloc("f32", n * scale))
    for (const buffer of held) memory.free(buffer)
  }
  step(1)
  const { fresh } = memory.usage()
  for (let i = 0; i < 20; i++) step(1)
  expect(memory.usage().fresh).toBe(fresh)
  expect(memory.usage().live).toBe(0)

  const big = memory.alloc("f32", 60_000_000)
  memory.free(big)
  for (let scale = 1; scale < 60; scale++) step(scale)
  expect(memory.usage().pooled).toBeLessThan(1.25 * 60_000_000 * 4 * 1.13 + 2 ** 26)
})

test("memory is not handed out twice", () => {
  const memory = createMemory(2 ** 31)
  const a = memory.alloc("f32", 100)
  memory.free(a)
  const b = memory.alloc("f32", 100)
  const c = memory.alloc("i32", 100)
  expect(b.data.buffer).not.toBe(c.data.buffer)
})
