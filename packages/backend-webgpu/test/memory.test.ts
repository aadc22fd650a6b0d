import { hostArray } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { absent, codeOf, filled, openRuntime, plus } from "./runtime-kit.ts"

const suite = absent === undefined ? describe : describe.skip

suite(`memory of the device${absent ? `: ${absent}` : ""}`, () => {
  it("gives freed memory to the next buffer of the size", async () => {
    const gpu = await openRuntime()
    let x = gpu.upload(filled(1000, 0), "f32")
    for (let i = 0; i < 300; i++) {
      const y = plus(gpu, x, 1)
      gpu.free(x)
      x = y
    }
    expect((await gpu.read(x))[999]).toBe(300)
    expect(gpu.live()).toBe(1)
    // Two that take turns, the one that is read from, and at most one more.
    expect(gpu.stats().buffersMade).toBeLessThanOrEqual(4)
    expect(gpu.stats().liveBytes).toBe(4000)
    gpu.free(x)
    expect(gpu.stats().liveBytes).toBe(0)
  })

  it("does not upload into memory that a recorded kernel still reads", async () => {
    const gpu = await openRuntime()
    for (const round of ["compiling", "compiled", "again"]) {
      const x = gpu.upload(filled(100, 1), "f32")
      const y = plus(gpu, x, 1)
      gpu.free(x)
      const other = gpu.upload(filled(100, 50), "f32")
      expect((await gpu.read(y))[7], round).toBe(2)
      expect((await gpu.read(other))[7], round).toBe(50)
      for (const buffer of [y, other]) gpu.free(buffer)
    }
  })

  it("reads what a buffer held when it was asked, though it is freed and written at once", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(filled(100, 1), "f32")
    const y = plus(gpu, x, 1)
    const reading = gpu.read(y)
    gpu.free(y)
    const z = plus(gpu, x, 70)
    expect((await reading)[3]).toBe(2)
    expect((await gpu.read(z))[3]).toBe(71)
  })

  it("makes nothing new when the same work repeats", async () => {
    const gpu = await openRuntime()
    const weight = gpu.upload(filled(640, 1), "f32")
    // Freed in another order each time, as garbage would be.
    const step = async (order: 1 | -1 = 1): Promise<void> => {
      const made = [gpu.upload(filled(640, 2), "f32"), gpu.upload(filled(64, 2), "f32")]
      for (let i = 0; i < 150; i++) made.push(plus(gpu, made[i % 2 ? i : 0] ?? weight, i, i % 3))
      const rest = made.slice(0, -1)
      for (const buffer of order === 1 ? rest : rest.reverse()) gpu.free(buffer)
      const last = made.at(-1)
      if (!last) throw new Error("nothing was made")
      await gpu.read(last)
      gpu.free(last)
    }
    await step()
    await step()
    const { buffersMade, bytesMade, poolBytes, pipelines, bindGroups, submissions } = gpu.stats()
    await step(-1)
    await step()
    expect(gpu.stats()).toMatchObject({ buffersMade, bytesMade, poolBytes, pipelines, bindGroups })
    expect(gpu.stats().submissions).toBeLessThanOrEqual(submissions + 6)
    expect(gpu.live()).toBe(1)
  })

  it("gives back sizes that are not used any more", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(filled(16, 1), "f32")
    gpu.free(plus(gpu, gpu.upload(filled(100_000, 1), "f32"), 1))
    await gpu.flush()
    expect(gpu.stats().poolBytes).toBe(400_000)
    for (let i = 0; i < 600; i++) {
      gpu.free(plus(gpu, x, 1))
      // Every flush submits; only the last needs to be waited for.
      const flushed = gpu.flush()
      if (i === 0 || i % 100 === 99) await flushed
    }
    expect(gpu.stats().poolBytes).toBe(64)
  })

  it.each(["u8", "bf16", "f16", "i32", "u32", "f32"] as const)(
    "holds %s of any length, from any place of an array, copied at once",
    async (dtype) => {
      const gpu = await openRuntime()
      for (const length of [0, 1, 2, 3, 5, 6, 7, 17]) {
        const host = hostArray(dtype, 30)
        for (let i = 0; i < host.length; i++) host[i] = i + 1
        const expected = host.slice(3, 3 + length)
        const buffer = gpu.upload(host.subarray(3, 3 + length), dtype)
        host.fill(0)
        expect(await gpu.read(buffer)).toEqual(expected)
        gpu.free(buffer)
      }
    },
  )

  it("uploads shared memory", async () => {
    const gpu = await openRuntime()
    const shared = new Uint8Array(new SharedArrayBuffer(13)).fill(9).subarray(2)
    expect(await gpu.read(gpu.upload(shared, "u8"))).toEqual(new Uint8Array(11).fill(9))
  })

  it("refuses a buffer above the limit, and one that was freed", async () => {
    const gpu = await openRuntime()
    expect(() => gpu.alloc("f32", 16 * 2 ** 20 + 1)).toThrow(/E_BUFFER_SIZE/)
    const x = gpu.upload(filled(4, 1), "f32")
    gpu.free(x)
    expect(() => plus(gpu, x, 1)).toThrow(/E_FREED/)
    expect(() => gpu.free(x)).toThrow(/E_FREED/)
    expect(await codeOf(gpu.read(x))).toBe("E_FREED")
  })

  /** A device that has no memory for buffers of a size and usage (storage unless told), `times` times. */
  const exhausted = (size: number, times: number, usage = 0x80): ReturnType<typeof openRuntime> => {
    let left = times
    return openRuntime((descriptor, real) =>
      real(
        descriptor.size === size && descriptor.usage & usage && left-- > 0
          ? { ...descriptor, size: 2 ** 45 }
          : descriptor,
      ),
    )
  }

  it("gives back what it keeps and tries again when there is no memory", async () => {
    const gpu = await exhausted(8000, 1)
    const x = gpu.upload(filled(1000, 1), "f32")
    await gpu.read(x)
    gpu.free(x)
    expect(gpu.stats().poolBytes).toBe(8000)
    const small = gpu.upload(filled(100, 3), "f32")
    const large = gpu.alloc("f32", 2000)
    const program = gpu.program("test spread", () => ({
      inputs: [{ name: "x", type: "f32" }],
      outputs: [{ name: "y", type: "f32" }],
      params: [],
      workgroupSize: [64],
      body: "if (index < arrayLength(&y)) { y[index] = x[index % 100u]; }",
    }))
    gpu.run(program, { inputs: [small], outputs: [large], params: [], groups: 32 })
    expect(await gpu.read(large)).toEqual(filled(2000, 3))
    expect(gpu.stats().poolBytes).toBeLessThanOrEqual(4000 + 8000)
  })

  it("says E_OUT_OF_MEMORY with the bytes and the kernel when it fails twice, and goes on afterwards", async () => {
    const gpu = await exhausted(8000, 3)
    const x = gpu.upload(filled(100, 1), "f32")
    const healthy = plus(gpu, x, 1)
    await gpu.flush()
    const large = gpu.alloc("f32", 2000)
    const small = plus(gpu, x, 5)
    const program = gpu.program("test large", () => ({
      inputs: [{ name: "x", type: "f32" }],
      outputs: [{ name: "y", type: "f32" }],
      params: [],
      workgroupSize: [64],
      body: "y[index] = x[0];",
    }))
    gpu.run(program, { inputs: [small], outputs: [large], params: [], groups: 1 })
    await expect(gpu.read(large)).rejects.toThrow(/8000 bytes of test large.*E_OUT_OF_MEMORY/)
    expect(await codeOf(gpu.read(large))).toBe("E_OUT_OF_MEMORY")
    expect((await gpu.read(healthy))[0]).toBe(2)
    for (const buffer of [large, small]) gpu.free(buffer)
    // An upload is not tried twice.
    const upload = gpu.upload(filled(2000, 1), "f32")
    expect(await codeOf(gpu.read(upload))).toBe("E_OUT_OF_MEMORY")
    gpu.free(upload)
    expect((await gpu.read(gpu.upload(filled(2000, 4), "f32")))[1999]).toBe(4)
    expect((await gpu.read(plus(gpu, healthy, 1)))[0]).toBe(3)
  })

  it("fails a read alone when there is no memory to read it to", async () => {
    const gpu = await exhausted(8000, 1, 0x1)
    const x = gpu.upload(filled(2000, 1), "f32")
    const y = plus(gpu, x, 1)
    const other = plus(gpu, gpu.upload(filled(10, 1), "f32"), 1)
    const reading = gpu.read(other)
    await expect(gpu.read(y)).rejects.toThrow(/8000 bytes.*E_OUT_OF_MEMORY/)
    expect((await reading)[9]).toBe(2)
    expect((await gpu.read(y))[1999]).toBe(2)
  })

  it("bounds what waits by what was in use", async () => {
    const gpu = await openRuntime()
    const largest = 16 * 2 ** 20
    for (let i = 0; i < 10; i++) gpu.free(gpu.alloc("f32", largest - i * 4))
    await gpu.flush()
    const { poolBytes, buffersMade } = gpu.stats()
    expect(buffersMade).toBe(10)
    expect(poolBytes).toBeGreaterThan(256 * 2 ** 20)
    expect(poolBytes).toBeLessThanOrEqual(256 * 2 ** 20 + 1.5 * largest * 4)
  })

  it("forgets a block that was freed before the device said that it is not there", async () => {
    const gpu = await exhausted(8000, 2)
    // Nothing is submitted while a pipeline compiles.
    const x = gpu.upload(filled(10, 1), "f32")
    gpu.free(plus(gpu, x, 1))
    const flushed = gpu.flush()
    gpu.free(gpu.alloc("f32", 2000))
    await flushed
    await gpu.flush()
    expect(gpu.stats().poolBytes).toBe(48)
    expect((await gpu.read(plus(gpu, gpu.upload(filled(2000, 4), "f32"), 1)))[1999]).toBe(5)
  })
})
