import {
  call,
  constant,
  coordinate,
  type DType,
  type Expr,
  input,
  isLeaf,
  type ScalarFunction,
  type Shape,
  scalar,
  scalarFunctions,
  sizeOf,
  uniform,
} from "@peftjs/core"
import { describe, expect, test } from "vitest"
import { createMemory, dataOf } from "../src/buffers.ts"
import { createHeap } from "../src/heap.ts"
import { cpu } from "../src/index.ts"
import { createMap } from "../src/map.ts"
import { bf16Value, distance, f16Value, numbers } from "./helpers.ts"

const memories = {
  compiled: createMemory(2 ** 31, createHeap()),
  /** A heap of scratch alone: every operand lies outside. */
  staged: createMemory(2 ** 31, createHeap(0)),
  interpreted: createMemory(2 ** 31),
}
const kernels = {
  compiled: createMap(memories.compiled),
  staged: createMap(memories.staged),
  interpreted: createMap(memories.interpreted),
}
const levels = ["compiled", "staged", "interpreted"] as const

interface Operand {
  readonly shape: Shape
  readonly dtype: DType
  readonly data: ArrayLike<number>
}

function element(x: Operand, position: number): number {
  const raw = x.data[position] as number
  return x.dtype === "bf16" ? bf16Value(raw) : x.dtype === "f16" ? f16Value(raw) : Math.fround(raw)
}

/** Straight from the meaning: coordinates by division, one recursion per element. */
function naive(expr: Expr, operands: readonly Operand[], scalars: readonly number[], shape: Shape): number[] {
  return Array.from({ length: sizeOf(shape) }, (_, flat) => {
    const at = shape.map((size, a) => Math.floor(flat / sizeOf(shape.slice(a + 1))) % size)
    const position = (k: number): number => {
      const s = operands[k]?.shape ?? []
      const own = at.slice(at.length - s.length)
      return s.reduce((p, size, a) => p * size + (size === 1 ? 0 : (own[a] as number)), 0)
    }
    const value = (e: Expr): number => {
      if (!isLeaf(e)) return scalarFunctions[e.op].value(...e.args.map(value))
      if (e.op === "const") return e.value
      if (e.op === "scalar") return scalars[e.index] as number
      if (e.op === "index") return at[e.axis] as number
      if (e.op === "uniform")
        return Math.floor(((operands[e.index] as Operand).data[position(e.index)] as number) / 256) / 2 ** 24
      return element(operands[e.index] as Operand, position(e.index))
    }
    return value(expr)
  })
}

function run(
  name: keyof typeof kernels,
  expr: Expr,
  operands: readonly Operand[],
  scalars: number[],
  shape: Shape,
  dtype: DType = "f32",
) {
  const memory = memories[name]
  const inputs = operands.map((x) => {
    const buffer = memory.alloc(x.dtype, x.data.length)
    for (let i = 0; i < x.data.length; i++) buffer.data[i] = x.data[i] as number
    return { buffer, shape: x.shape }
  })
  return [...dataOf(kernels[name](expr, inputs, scalars, shape, dtype))] as number[]
}

/** What WebAssembly computes in f32 by polynomials, or in two steps. */
const approximated: ReadonlySet<string> = new Set(["exp", "log", "tanh", "sigmoid", "rsqrt"])

/** How far apart two f32 are in units of the last place of the second; infinite if one is no number, no finite one or of another sign. */
function unitsApart(a: number, b: number): number {
  if (Object.is(a, b)) return 0
  if (!Number.isFinite(a) || !Number.isFinite(b)) return Number.POSITIVE_INFINITY
  if (Math.sign(a) * Math.sign(b) < 0) return Number.POSITIVE_INFINITY
  return Math.abs(a - b) / 2 ** Math.max(-149, Math.floor(Math.log2(Math.abs(b))) - 23)
}

const f32 = (shape: Shape, seed = 1): Operand => ({ shape, dtype: "f32", data: numbers(sizeOf(shape), seed) })

describe.each(levels)("map, %s", (name) => {
  test.each(Object.keys(scalarFunctions) as ScalarFunction[])("%s has its meaning, also for special numbers", (op) => {
    const special = [0, -0, 1, -1, 0.5, -2.5, 3, 1e-30, 700, -700, 1e30, Infinity, -Infinity, NaN]
    const n = special.length
    const operands: Operand[] = [
      { shape: [n, 1, 1], dtype: "f32", data: special },
      { shape: [n, 1], dtype: "f32", data: special },
      { shape: [2], dtype: "f32", data: [3, -0.25] },
    ]
    const { arity } = scalarFunctions[op]
    const expr: Expr = { op, args: [input(0), input(1), input(2)].slice(0, arity) }
    const expected = naive(expr, operands, [], [n, n, 2]).map(Math.fround)
    const found = run(name, expr, operands, [], [n, n, 2])
    if (name === "interpreted" || !approximated.has(op)) expect(found).toEqual(expected)
    else for (const [i, e] of expected.entries()) expect(unitsApart(found[i] as number, e)).toBeLessThanOrEqual(2)
  })

  const silu = call("mul", call("mul", input(0), call("sigmoid", input(0))), input(1))
  test.each<[string, Shape, Shape, Shape]>([
    ["same shape", [3, 5, 7], [3, 5, 7], [3, 5, 7]],
    ["row vector", [4, 9], [4, 9], [9]],
    ["column vector", [4, 9], [4, 9], [4, 1]],
    ["scalar", [4, 9], [4, 9], []],
    ["both ways", [3, 4], [3, 1], [1, 4]],
    ["middle", [2, 3, 4, 5], [2, 1, 4, 5], [3, 1, 5]],
    ["outer and last", [2, 3, 4], [1, 3, 1], [2, 1, 4]],
    ["ones", [1, 1], [1], [1, 1]],
    ["rank 0", [], [], []],
    ["empty", [0, 3], [1, 3], [0, 1]],
    ["empty inside", [3, 0, 2], [3, 1, 2], [2]],
  ])("broadcasts: %s", (_, shape, a, b) => {
    const operands = [f32(a, 1), f32(b, 2)]
    const tolerance = name === "interpreted" ? 6e-8 : 4e-7
    expect(distance(run(name, silu, operands, [], shape), naive(silu, operands, [], shape))).toBeLessThan(tolerance)
  })

  test("coordinates, scalars, constants and uniform numbers", () => {
    const causal = call(
      "select",
      call("le", coordinate(2), call("add", coordinate(1), scalar(0))),
      input(0),
      constant(-1e9),
    )
    const x = f32([2, 3, 4])
    for (const offset of [0, 1, -1]) {
      expect(run(name, causal, [x], [offset], [2, 3, 4])).toEqual(
        naive(causal, [x], [offset], [2, 3, 4]).map(Math.fround),
      )
    }
    const flat = call("add", call("mul", coordinate(0), constant(10)), coordinate(1))
    expect(run(name, flat, [], [], [2, 3])).toEqual([0, 1, 2, 10, 11, 12])
    expect(run(name, flat, [], [], [1, 3])).toEqual([0, 1, 2])
    const bits: Operand = { shape: [4], dtype: "u32", data: [0, 255, 2 ** 31, 2 ** 32 - 1] }
    expect(run(name, uniform(0), [bits], [], [4])).toEqual([0, 0, 0.5, 1 - 2 ** -24])
  })

  test("the same expression with other axes merged does not reuse a wrong loop", () => {
    const expr = call("add", coordinate(1), input(0))
    for (const shape of [
      [2, 3, 4],
      [2, 1, 4],
      [1, 3, 1],
      [5, 4, 1],
      [1, 1, 1],
    ] as const) {
      const x = f32(shape)
      expect(run(name, expr, [x], [], shape)).toEqual(naive(expr, [x], [], shape).map(Math.fround))
    }
  })

  test("reads every element type", () => {
    const types: [DType, number[]][] = [
      ["f16", [0, 0x3c00, 0xc000, 0x0001, 0x7c00]],
      ["bf16", [0, 0x3f80, 0xc000, 0x0001, 0x7f80]],
      ["i32", [0, -7, 2 ** 24 + 1, 2 ** 31 - 1, 5]],
      ["u32", [0, 7, 2 ** 24 + 1, 2 ** 32 - 1, 5]],
      ["u8", [0, 255, 1, 2, 3]],
    ]
    const expr = call("mul", input(0), input(1))
    for (const [dtype, data] of types) {
      const operands: Operand[] = [{ shape: [5], dtype, data }, f32([2, 1])]
      expect(run(name, expr, operands, [], [2, 5])).toEqual(naive(expr, operands, [], [2, 5]).map(Math.fround))
    }
  })

  test("a plain copy widens too, also where it is broadcast", () => {
    const shapes = [
      [[6], [6]],
      [
        [2, 3],
        [2, 3],
      ],
      [[4, 6], [6]],
      [[6, 1], [1]],
      [[0], [0]],
    ] as const
    for (const dtype of ["f32", "f16", "bf16", "i32", "u8"] as const) {
      for (const [shape, from] of shapes) {
        const data = Array.from({ length: sizeOf(from) }, (_, i) => (dtype === "f32" ? i / 2 : 0x20 * (i + 1)))
        const x: Operand = { shape: from, dtype, data }
        expect(run(name, input(0), [x], [], shape)).toEqual(naive(input(0), [x], [], shape).map(Math.fround))
      }
    }
  })

  test("writes i32, f16 and bf16", () => {
    const x: Operand = { shape: [6], dtype: "f32", data: [0, 1, -1, 65504, 1 + 2 ** -8, 1 + 3 * 2 ** -8] }
    const y: Operand = { ...x, data: [0, 1, -1, 7, -123456, 2 ** 30] }
    expect(run(name, input(0), [y], [], [6], "i32")).toEqual(y.data)
    expect(run(name, input(0), [x], [], [6], "bf16")).toEqual([0, 0x3f80, 0xbf80, 0x4780, 0x3f80, 0x3f82])
    expect(run(name, input(0), [x], [], [6], "f16")).toEqual([0, 0x3c00, 0xbc00, 0x7bff, 0x3c04, 0x3c0c])
  })
})

describe("functions in WebAssembly", () => {
  const dense = Float32Array.from({ length: 40_000 }, (_, i) => (i - 20_000) / 187)
  const wide = Float32Array.from({ length: 20_000 }, (_, i) => 2 ** ((i - 10_000) / 70) * (1 + (i % 97) / 100))
  const bits = Float32Array.from({ length: 5000 }, (_, i) => (i + 1) * 2 ** -149)
  test.each<[ScalarFunction, Float32Array, number]>([
    ["exp", dense, 2],
    ["exp", Float32Array.from(wide, (x) => -x), 2],
    ["log", wide, 2],
    ["log", bits, 2],
    ["sigmoid", dense.filter((x) => x > -87), 3],
    ["tanh", dense, 2],
    ["tanh", wide, 2],
    ["sin", wide, 0.5],
    ["cos", dense, 0.5],
  ])("%s is right to the last places", (op, points, units) => {
    const x: Operand = { shape: [points.length], dtype: "f32", data: points }
    const found = run("compiled", call(op, input(0)), [x], [], x.shape)
    const { value } = scalarFunctions[op]
    let worst = 0
    points.forEach((p, i) => {
      const exact = value(p)
      // What rounds to 0 or infinity must be just that.
      const limit = Math.fround(exact)
      const apart =
        Number.isFinite(limit) && limit !== 0
          ? unitsApart(found[i] as number, exact)
          : unitsApart(found[i] as number, limit)
      worst = Math.max(worst, apart)
    })
    expect(worst).toBeLessThanOrEqual(units)
  })

  test("rounding to 16 bits is that of the interpreter for every kind of number", () => {
    const patterns = Uint32Array.from({ length: 60_000 }, (_, i) => Math.imul(i, 0x9e3779b1) >>> 0)
    const halfway = Float32Array.from(
      { length: 4000 },
      (_, i) => (1 + (2 * (i % 1024) + 1) / 2048) * 2 ** ((i % 40) - 26),
    )
    const data = [...new Float32Array(patterns.buffer), ...halfway, 65519.99, 65520, -65520, 3.4e38]
    for (const dtype of ["f16", "bf16"] as const) {
      const x: Operand = { shape: [data.length], dtype: "f32", data }
      const [found, expected] = [
        run("compiled", input(0), [x], [], x.shape, dtype),
        run("interpreted", input(0), [x], [], x.shape, dtype),
      ]
      const number = dtype === "f16" ? f16Value : bf16Value
      expect(found.filter((p, i) => p !== expected[i] && !Number.isNaN(number(p)))).toEqual([])
      expect(found.map((p) => Number.isNaN(number(p)))).toEqual(expected.map((p) => Number.isNaN(number(p))))
    }
  })

  test("every f16 pattern is read as the number it stands for", () => {
    const data = Array.from({ length: 65536 }, (_, i) => i)
    const x: Operand = { shape: [65536], dtype: "f16", data }
    expect(run("compiled", input(0), [x], [], x.shape)).toEqual(data.map(f16Value))
  })
})

test("parts of a map whose operands lie outside make up the whole", () => {
  const expr = call("add", call("mul", input(0), coordinate(1)), call("add", input(1), coordinate(0)))
  for (const [shape, a, b] of [
    [[7, 5003], [7, 5003], [5003]],
    [[3, 40_001], [3, 1], [40_001]],
    [
      [2, 3, 20_011],
      [2, 1, 20_011],
      [3, 1],
    ],
    [
      [50_021, 3],
      [50_021, 1],
      [50_021, 3],
    ],
  ] as const) {
    const operands = [f32(a, 1), f32(b, 2)]
    expect(run("staged", expr, operands, [], shape)).toEqual(run("compiled", expr, operands, [], shape))
    expect(distance(run("staged", expr, operands, [], shape), naive(expr, operands, [], shape))).toBeLessThan(1e-6)
  }
})

test("map refuses to write u8 and u32, and operands that do not fit their shape", async () => {
  const { upload, kernels } = await cpu({ kernels: "reference" })
  const x = upload(Float32Array.of(1, 2), "f32")
  expect(() => kernels.map(input(0), [{ buffer: x, shape: [2] }], [], [2], "u8")).toThrow(
    expect.objectContaining({ code: "E_UNSUPPORTED" }),
  )
  expect(() => kernels.map(input(0), [{ buffer: x, shape: [3] }], [], [3], "f32")).toThrow(
    expect.objectContaining({ code: "E_INTERNAL" }),
  )
  expect(() => kernels.map(input(0), [{ buffer: x, shape: [2] }], [], [3], "f32")).toThrow(
    expect.objectContaining({ code: "E_INTERNAL" }),
  )
})
