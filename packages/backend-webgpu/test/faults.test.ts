import { describe, expect, it } from "vitest"
import { absent, add, broken, codeOf, filled, openRuntime, plus } from "./runtime-kit.ts"

const suite = absent === undefined ? describe : describe.skip

suite(`faults of the device${absent ? `: ${absent}` : ""}`, () => {
  it("says which kernel does not compile, where and why", async () => {
    const gpu = await openRuntime()
    const y = gpu.alloc("f32", 4)
    gpu.run(broken(gpu), { inputs: [], outputs: [y], params: [4], groups: 1 })
    await expect(gpu.flush()).rejects.toThrow(/test broken.*line \d+.*nonsense.*E_KERNEL/)
  })

  it("fails every read of what came after a fault, and no other", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(filled(4, 1), "f32")
    const before = plus(gpu, x, 1)
    const spoiled = gpu.alloc("f32", 4)
    gpu.run(broken(gpu), { inputs: [], outputs: [spoiled], params: [4], groups: 1 })
    const follows = plus(gpu, spoiled, 1)
    const changed = gpu.upload(filled(4, 1), "f32")
    add(gpu, changed, 1)
    // Two that wait at once both fail.
    expect(await Promise.all([codeOf(gpu.read(follows)), codeOf(gpu.read(spoiled))])).toEqual(["E_KERNEL", "E_KERNEL"])
    // And so does what is asked after the program was told.
    expect(await codeOf(gpu.read(follows))).toBe("E_KERNEL")
    expect(await codeOf(gpu.read(changed))).toBe("E_KERNEL")
    expect(() => plus(gpu, follows, 1)).toThrow(/E_KERNEL/)
    expect(() => add(gpu, changed, 1)).toThrow(/E_KERNEL/)
    // What is not concerned goes on.
    expect((await gpu.read(before))[0]).toBe(2)
    expect((await gpu.read(plus(gpu, before, 1)))[0]).toBe(3)
    await gpu.flush()
  })

  it("throws from upload what nobody was told of", async () => {
    const gpu = await openRuntime()
    gpu.run(broken(gpu), { inputs: [], outputs: [gpu.alloc("f32", 4)], params: [4], groups: 1 })
    const x = gpu.upload(filled(4, 1), "f32")
    const started = Date.now()
    let code = ""
    while (code === "" && Date.now() - started < 10_000) {
      await new Promise((resolve) => setTimeout(resolve, 20))
      try {
        gpu.free(plus(gpu, x, 1))
        for (let i = 0; i < 200; i++) gpu.free(plus(gpu, x, 1))
        gpu.free(gpu.upload(filled(4, 1), "f32"))
      } catch (error) {
        code = (error as { code: string }).code
      }
    }
    expect(code).toBe("E_KERNEL")
  })

  it("turns what the device refuses into E_KERNEL with the kernels and their shapes", async () => {
    const gpu = await openRuntime((descriptor, real) =>
      // A buffer that kernels may not bind.
      real(descriptor.size === 4000 && descriptor.usage & 0x80 ? { ...descriptor, usage: 0x4 | 0x8 } : descriptor),
    )
    const x = gpu.upload(filled(1000, 1), "f32")
    const y = plus(gpu, x, 1)
    await expect(gpu.read(y)).rejects.toThrow(/test plus 0 \(n 1000, added 1, groups 16x1x1\).*E_KERNEL/s)
    expect(await codeOf(gpu.read(y))).toBe("E_KERNEL")
    expect((await gpu.read(plus(gpu, gpu.upload(filled(7, 1), "f32"), 1)))[6]).toBe(2)
  })

  it("ends with E_DEVICE_LOST for everything, pending or not, but free", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(filled(4, 1), "f32")
    const y = plus(gpu, x, 1)
    const pending = [codeOf(gpu.read(y)), codeOf(gpu.flush()), codeOf(gpu.read(x))]
    gpu.destroy()
    expect(await Promise.all(pending)).toEqual(["E_DEVICE_LOST", "E_DEVICE_LOST", "E_DEVICE_LOST"])
    expect(await gpu.lost).toMatchObject({ code: "E_DEVICE_LOST" })
    expect(await codeOf(gpu.read(y))).toBe("E_DEVICE_LOST")
    expect(await codeOf(gpu.flush())).toBe("E_DEVICE_LOST")
    expect(() => gpu.upload(filled(4, 1), "f32")).toThrow(/E_DEVICE_LOST/)
    expect(() => gpu.alloc("f32", 4)).toThrow(/E_DEVICE_LOST/)
    expect(() => plus(gpu, y, 1)).toThrow(/E_DEVICE_LOST/)
    for (const buffer of [x, y, y]) gpu.free(buffer)
    expect(gpu.live()).toBe(0)
    gpu.destroy()
  })

  it("notices a device that goes by itself while a read waits", async () => {
    let real: GPUDevice | undefined
    const gpu = await openRuntime(
      (descriptor, create) => create(descriptor),
      (device) => {
        real = device
      },
    )
    const x = gpu.upload(filled(4, 1), "f32")
    await gpu.read(plus(gpu, x, 1))
    const pending = codeOf(gpu.read(plus(gpu, x, 2)))
    real?.destroy()
    expect(await pending).toBe("E_DEVICE_LOST")
    expect(await gpu.lost).toMatchObject({ code: "E_DEVICE_LOST" })
    expect(() => gpu.alloc("f32", 4)).toThrow(/E_DEVICE_LOST/)
  })
})
