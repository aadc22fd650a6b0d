/** Maps by fours against the kit's plain loops: broadcasting along each axis, coordinates, types; functions far from 0; very many elements. */
import { fakeBackend } from "@peftjs/conformance"
import {
  type Backend,
  call,
  coordinate,
  type DType,
  type Expr,
  input,
  randomWords,
  type ScalarFunction,
  type Shape,
  scalar,
  sizeOf,
  uniform,
  uniforms,
} from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { createMap } from "../src/map.ts"
import { createRandomBits } from "../src/random.ts"
import { absent, openGpu } from "./gpu.ts"

const mul = (a: Expr, b: Expr): Expr => call("mul", a, b)
const add = (a: Expr, b: Expr): Expr => call("add", a, b)

describe.skipIf(absent !== undefined)("map", () => {
  for (const shapes of [
    [[3, 8], [8], [3, 1]],
    [[8], [3, 1], [1, 8]],
    [
      [2, 3, 4],
      [3, 4],
      [2, 1, 4],
    ],
    [[2, 1, 4], [3, 1], []],
    [[5, 7], [7], [5, 1]],
    [[6], [1], [6]],
  ] as readonly (readonly [Shape, Shape, Shape])[]) {
    it(`of [${shapes.join("] [")}] with coordinates`, async () => {
      const gpu = await openGpu()
      const fake = fakeBackend()
      const rank = Math.max(...shapes.map((s) => s.length))
      const out = Array.from({ length: rank }, (_, axis) =>
        Math.max(...shapes.map((s) => s[s.length - rank + axis] ?? 1)),
      )
      const data = [
        uniforms([1, 1], sizeOf(shapes[0]), -1, 1),
        Int32Array.from({ length: sizeOf(shapes[1]) }, (_, i) => i - 4),
        randomWords([2, 2], sizeOf(shapes[2])),
      ] as const
      const places = out.map((_, axis) => mul(coordinate(axis), scalar(axis))).reduce(add)
      const expr = add(add(mul(input(0), input(1)), uniform(2)), places)
      const run = (
        backend: Pick<Backend, "upload">,
        map: Backend["kernels"]["map"],
        dtype: DType,
      ): ReturnType<typeof map> => {
        const inputs = data.map((x, i) => ({
          buffer: backend.upload(x, (["f32", "i32", "u32"] as const)[i] as DType),
          shape: shapes[i] as Shape,
        }))
        return map(expr, inputs, [100, 10, 1], out, dtype)
      }
      for (const dtype of ["f32", "i32"] as const) {
        const expected = await fake.read(run(fake, fake.kernels.map, dtype))
        const found = await gpu.read(run(gpu, createMap(gpu), dtype))
        expect(found.length).toBe(expected.length)
        for (const [i, value] of found.entries()) expect(value).toBeCloseTo(expected[i] as number, 3)
      }
    })
  }

  it("functions stay numbers, and near enough, far from 0", async () => {
    const gpu = await openGpu()
    const points = Float32Array.from([-3e38, -1000, -90, -20, -1e-4, 1e-6, 0.6, 0.65, 30, 88, 2000, 3e38])
    const run = async (op: ScalarFunction, x: Float32Array): Promise<Float32Array> => {
      const y = createMap(gpu)(
        call(op, input(0)),
        [{ buffer: gpu.upload(x, "f32"), shape: [x.length] }],
        [],
        [x.length],
        "f32",
      )
      return (await gpu.read(y)) as Float32Array
    }
    for (const [i, y] of (await run("tanh", points)).entries()) {
      const exact = Math.tanh(points[i] as number)
      expect(Math.abs(y - exact)).toBeLessThanOrEqual(3e-7 * Math.abs(exact))
    }
    for (const [i, y] of (await run("sigmoid", points)).entries())
      expect(Math.abs(y - 1 / (1 + Math.exp(-(points[i] as number))))).toBeLessThanOrEqual(3e-7)
    const angles = uniforms([5, 5], 1000, -4000, 4000)
    for (const op of ["sin", "cos"] as const)
      for (const [i, y] of (await run(op, angles)).entries())
        expect(Math.abs(y - Math[op](angles[i] as number))).toBeLessThan(5e-7)
    // A NaN that becomes a number would hide that a training diverges.
    for (const op of ["exp", "log", "tanh", "sigmoid", "sin", "cos", "sqrt", "rsqrt"] as const)
      expect([...(await run(op, Float32Array.of(Number.NaN)))], op).toEqual([Number.NaN])
    const infinite = [Number.NEGATIVE_INFINITY, Number.NaN, Number.POSITIVE_INFINITY]
    expect([...(await run("log", Float32Array.of(0, -1, Number.POSITIVE_INFINITY)))]).toEqual(infinite)
  })

  it("more workgroups than one dimension of a dispatch takes", async () => {
    const gpu = await openGpu()
    const n = 2 * 64 * 65535 + 131
    const words = (await gpu.read(createRandomBits(gpu)([3, 4], n))) as Uint32Array
    const expected = randomWords([3, 4], n)
    expect(words.length).toBe(n)
    expect(words.every((word, i) => word === expected[i])).toBe(true)
  })
})
