import { describe, expect, test } from "vitest"
import { addressOf, createMemory } from "../src/buffers.ts"
import { type Block, createHeap, type Heap, placeOf, scratchBytes } from "../src/heap.ts"
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

test("large shared memory is kept as it is, read by kernels like any other, and never written into", async () => {
  const backend = await cpu()
  const memory = new SharedArrayBuffer(4 * 2 ** 19)
  const host = new Float32Array(memory)
  for (let i = 0; i < host.length; i++) host[i] = i % 97
  const buffer = backend.upload(host, "f32")
  const axis = { outer: 1, n: host.length, inner: 1 }
  const sum = await backend.read(backend.kernels.reduce("sum", buffer, axis))
  expect(sum[0]).toBeCloseTo(
    host.reduce((a, b) => a + b, 0),
    -1,
  )
  host[0] = 1000
  expect((await backend.read(buffer))[0]).toBe(1000)
  // A bf16 matrix in a product, as a frozen base is.
  const half = new Uint16Array(new SharedArrayBuffer(2 * 2 ** 20)).fill(0x3f80)
  const weight = backend.upload(half, "bf16")
  const dims = { batch: 1, m: 2, n: 1024, k: 1024, transA: false, transB: true }
  const x = backend.upload(new Float32Array(2048).fill(0.5), "f32")
  expect((await backend.read(backend.kernels.matmul(x, weight, dims))).every((y) => y === 512)).toBe(true)
  const own = backend.upload(new Float32Array(host.length), "f32")
  const scalars = {
    learningRate: 1,
    beta1: 0,
    beta2: 0,
    epsilon: 1,
    weightDecay: 0,
    correction1: 1,
    correction2: 1,
    gradScale: 1,
  }
  expect(() => backend.kernels.adamw?.(buffer, own, own, own, scalars)).toThrow(
    expect.objectContaining({ code: "E_INTERNAL" }),
  )
  backend.free(buffer)
  expect(host[1]).toBe(1)
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

describe.each(["in the heap", "without a heap"])("memory %s", (where) => {
  const make = () => createMemory(2 ** 31, where === "in the heap" ? createHeap() : undefined)

  test("a repeated step asks for nothing, and memory never far exceeds what was live", () => {
    const memory = make()
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
    const memory = make()
    const a = memory.alloc("f32", 100)
    memory.free(a)
    const b = memory.alloc("f32", 100)
    const c = memory.alloc("i32", 100)
    b.data.fill(1)
    c.data.fill(2)
    expect([...b.data]).toEqual(new Array(100).fill(1))
  })
})

describe("heap", () => {
  test("blocks of random lengths and lives keep their contents, and leave one free block", () => {
    const heap = createHeap() as Heap
    const start = heap.alloc(64)
    expect(start).toBeDefined()
    let state = 1
    const random = (n: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return Math.floor((state / 2 ** 32) * n)
    }
    const live: { block: Block; mark: number; words: number }[] = []
    const view = ({ block, words }: (typeof live)[number]) => new Int32Array(heap.buffer(), block.address, words)
    for (let i = 0; i < 4000; i++) {
      if (live.length > 60 || (live.length > 0 && random(3) === 0)) {
        const [one] = live.splice(random(live.length), 1) as [(typeof live)[number]]
        expect(view(one).every((x) => x === one.mark)).toBe(true)
        heap.free(one.block)
      } else {
        const words = 1 + random(2 ** random(17))
        const one = { block: heap.alloc(4 * words) as Block, mark: i, words }
        expect(one.block.address % 64).toBe(0)
        view(one).fill(i)
        live.push(one)
      }
    }
    for (const { block } of live) heap.free(block)
    heap.free(start as Block)
    const { live: used, size } = heap.usage()
    expect(used).toBe(0)
    const whole = heap.alloc(size - scratchBytes - 64) as Block
    expect(heap.usage().size).toBe(size)
    expect(whole.address).toBe((start as Block).address)
  })

  test("a view is known as the heap's own after any heap of the process has grown", () => {
    const [one, other] = [createHeap(), createHeap()] as [Heap, Heap]
    const outside = new Float32Array(new SharedArrayBuffer(64))
    for (const grows of [one, other]) {
      const views = [one, other].map((heap) => new Float32Array(heap.buffer(), 128, 4))
      grows.alloc(2 ** 25)
      for (const heap of [one, other]) views.push(new Float32Array(heap.buffer(), 128, 4))
      expect(views.map((view) => placeOf(one, view))).toEqual([128, undefined, 128, undefined])
      expect(views.map((view) => placeOf(other, view))).toEqual([undefined, 128, undefined, 128])
    }
    expect(placeOf(one, outside)).toBeUndefined()
  })

  test("lengths that grow from step to step reuse what shorter ones left", () => {
    const heap = createHeap() as Heap
    for (let step = 0; step < 200; step++) {
      const blocks = [3, 1, 2, 5, 1].map((n) => heap.alloc(n * (40_000 + 640 * step)) as Block)
      for (const i of [1, 3, 0, 4, 2]) heap.free(blocks[i] as Block)
    }
    expect(heap.usage().size).toBeLessThan(scratchBytes + 2 ** 25)
  })

  test("what finds no room lies outside, and comes back when there is room", () => {
    const memory = createMemory(2 ** 31, createHeap(scratchBytes + 2 ** 20))
    const [a, b] = [memory.alloc("f32", 200_000), memory.alloc("f32", 200_000)]
    expect(addressOf(a)).toBeDefined()
    expect(addressOf(b)).toBeUndefined()
    memory.free(a)
    expect(addressOf(memory.alloc("f32", 200_000))).toBe(scratchBytes)
    expect(() => addressOf(a)).toThrow(expect.objectContaining({ code: "E_INTERNAL" }))
  })

  test("results and small uploads lie inside, large uploads while a quarter of the heap suffices", () => {
    const memory = createMemory(2 ** 31, createHeap(2 ** 27))
    const [large, small] = [new Uint16Array(2 ** 23), new Uint16Array(2 ** 19)]
    const inside = [1, 2].map(() => addressOf(memory.upload(large, "bf16")) !== undefined)
    expect(inside).toEqual([true, false])
    expect(addressOf(memory.upload(large.subarray(1), "bf16"))).toBeUndefined()
    expect(addressOf(memory.upload(small, "bf16"))).toBeDefined()
    expect(addressOf(memory.alloc("f32", 2 ** 22))).toBeDefined()
  })

  test("scratch is a stack, and has an end", () => {
    const heap = createHeap(0) as Heap
    heap.scratch(100, (outer) => {
      const inner = heap.scratch(1, (address) => address)
      expect(inner).toBeGreaterThanOrEqual(outer + 100)
      expect(heap.scratch(1, (address) => address)).toBe(inner)
    })
    expect(() => heap.scratch(scratchBytes, () => 0)).toThrow(expect.objectContaining({ code: "E_INTERNAL" }))
    expect(heap.scratch(8, (address) => address)).toBe(64)
  })
})
