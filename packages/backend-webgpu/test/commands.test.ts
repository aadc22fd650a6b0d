import { describe, expect, it } from "vitest"
import { absent, add, filled, openRuntime, plus } from "./runtime-kit.ts"

const suite = absent === undefined ? describe : describe.skip

suite(`commands of the device${absent ? `: ${absent}` : ""}`, () => {
  it("gives every one of many dispatches its own scalars, in few submissions", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(filled(3, 0), "f32")
    const made = Array.from({ length: 500 }, (_, i) => plus(gpu, x, i, i % 2))
    const values = await Promise.all(made.map(async (buffer) => (await gpu.read(buffer))[2]))
    expect(values).toEqual(made.map((_, i) => i))
    expect(gpu.stats().dispatches).toBe(500)
    expect(gpu.stats().submissions).toBeLessThanOrEqual(9)
  })

  it("keeps the order of kernels that change a buffer and kernels that read it", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(filled(10, 0), "f32")
    const seen = Array.from({ length: 200 }, (_, i) => {
      add(gpu, x, 1)
      return i % 50 === 0 ? plus(gpu, x, 0.5) : undefined
    })
    const values = await Promise.all(seen.map(async (buffer) => buffer && (await gpu.read(buffer))[9]))
    expect(values.filter((v) => v !== undefined)).toEqual([1.5, 51.5, 101.5, 151.5])
    expect((await gpu.read(x))[9]).toBe(200)
  })

  it("takes blocks of scalars larger than one alignment step", async () => {
    const gpu = await openRuntime()
    const names = Array.from({ length: 100 }, (_, i) => `s${i}`)
    const program = gpu.program("test scalars", () => ({
      inputs: [],
      outputs: [{ name: "y", type: "f32" }],
      params: names.map((name) => ({ name, type: "f32" })),
      workgroupSize: [1],
      body: `y[0] = ${names.map((name) => `p.${name}`).join(" + ")};`,
    }))
    const made = Array.from({ length: 150 }, (_, k) => {
      const y = gpu.alloc("f32", 1)
      gpu.run(program, { inputs: [], outputs: [y], params: names.map((_, i) => i + k), groups: 1 })
      return y
    })
    const values = await Promise.all(made.map(async (buffer) => (await gpu.read(buffer))[0]))
    expect(values).toEqual(made.map((_, k) => 4950 + 100 * k))
  })

  it("spreads more than 65535 workgroups over two dimensions", async () => {
    const gpu = await openRuntime()
    const groups = 65_535 + 4
    const y = gpu.alloc("u32", groups)
    const program = gpu.program("test groups", () => ({
      inputs: [],
      outputs: [{ name: "y", type: "u32" }],
      params: [],
      workgroupSize: [1],
      body: "if (index < arrayLength(&y)) { y[index] = group_index * 3u; }",
    }))
    gpu.run(program, { inputs: [], outputs: [y], params: [], groups })
    const values = await gpu.read(y)
    expect(values.findIndex((v, i) => v !== i * 3)).toBe(-1)
    expect(values.length).toBe(groups)
  })

  it("runs nothing for no workgroup and for outputs without elements", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(new Float32Array(), "f32")
    expect(await gpu.read(plus(gpu, x, 1))).toEqual(new Float32Array())
    expect(gpu.stats().dispatches).toBe(0)
  })

  it("refuses a buffer that is read and written at once, and calls that do not fit the program", async () => {
    const gpu = await openRuntime()
    const x = gpu.upload(filled(4, 1), "f32")
    const program = gpu.program("test two", () => ({
      inputs: [{ name: "x", type: "f32" }],
      outputs: [
        { name: "y", type: "f32" },
        { name: "z", type: "f32" },
      ],
      params: [],
      workgroupSize: [1],
      body: "y[0] = x[0]; z[0] = x[0];",
    }))
    const [y, z] = [gpu.alloc("f32", 4), gpu.alloc("f32", 4)]
    const call = { inputs: [x], outputs: [y, z], params: [], groups: 1 }
    gpu.run(program, call)
    expect(() => gpu.run(program, { ...call, outputs: [y, x as never] })).toThrow(/E_INTERNAL/)
    expect(() => gpu.run(program, { ...call, outputs: [y, y] })).toThrow(/E_INTERNAL/)
    expect(() => gpu.run(program, { ...call, outputs: [y] })).toThrow(/E_INTERNAL/)
    expect(() => gpu.run(program, { ...call, params: [1] })).toThrow(/E_INTERNAL/)
    expect(() => gpu.run(program, { ...call, groups: [70_000, 1, 1] })).toThrow(/E_INTERNAL/)
    expect((await gpu.read(z))[0]).toBe(1)
  })
})
