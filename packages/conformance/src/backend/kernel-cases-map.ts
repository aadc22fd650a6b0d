/** Cases of `map` and `reduce`. */
import type { Backend, DeviceBuffer, DType, MapInput, Shape } from "@peftjs/core"
import { call, coordinate, input, scalar, sizeOf } from "@peftjs/core"
import { type HalfType, halfTypes, halves } from "./half.ts"
import { at, host, numbers, spread, sum, tabulate } from "./host.ts"
import type { KernelCase } from "./kernel-check.ts"

const mapShapes: readonly (readonly [a: Shape, b: Shape, out: Shape])[] = [
  [[], [], []],
  [[1], [1], [1]],
  [[0], [1], [0]],
  [[7], [7], [7]],
  [[3, 5], [5], [3, 5]],
  [
    [3, 5],
    [3, 1],
    [3, 5],
  ],
  [
    [3, 1],
    [1, 5],
    [3, 5],
  ],
  [[], [2, 3], [2, 3]],
  [
    [2, 1, 4, 1],
    [3, 1, 9],
    [2, 3, 4, 9],
  ],
  [[65, 33], [33], [65, 33]],
  [[2, 0, 3], [3], [2, 0, 3]],
  [[257], [1], [257]],
]

const operand = (buffer: DeviceBuffer | undefined, shape: Shape): MapInput => ({
  buffer: buffer as DeviceBuffer,
  shape,
})

/** (a - 2) · b + s with a of i32: a conversion, a scalar argument and broadcasting. */
function broadcasting([a, b, out]: (typeof mapShapes)[number]): KernelCase {
  const ints = Int32Array.from({ length: sizeOf(a) }, (_, i) => (i % 7) - 3)
  const floats = numbers("map", sizeOf(b))
  const [x, y] = [host(a, ints), host(b, floats)]
  const expr = call("add", call("mul", call("sub", input(0), scalar(1)), input(1)), scalar(0))
  return {
    label: `map [${a}] with [${b}]`,
    inputs: [{ data: ints, dtype: "i32" }, { data: floats }],
    run: ({ kernels }, [p, q]) => kernels.map(expr, [operand(p, a), operand(q, b)], [0.25, 2], out, "f32"),
    expected: tabulate(out, (...c) => (spread(x, c) - 2) * spread(y, c) + 0.25).data,
    tolerance: "elementwise",
  }
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
/** Three expressions that share a part; the last is an operand as it is. */
const together = [
  call("mul", input(0), call("sigmoid", input(1))),
  call("sub", call("sigmoid", input(1)), scalar(0)),
  input(1),
]
const meant = [
  (a: number, b: number) => a * sigmoid(b),
  (_: number, b: number) => sigmoid(b) - 0.25,
  (_: number, b: number) => b,
]

/** Each result of several expressions in one pass; the others are given back. */
function severalAtOnce([a, b, out]: (typeof mapShapes)[number]): KernelCase[] {
  const [one, two] = [numbers("maps a", sizeOf(a)), numbers("maps b", sizeOf(b), -3, 3)]
  const [x, y] = [host(a, one), host(b, two)]
  return meant.map((value, i) => ({
    label: `maps [${a}] with [${b}], result ${i}`,
    inputs: [{ data: one }, { data: two }],
    run(backend, [p, q]) {
      const { maps } = backend.kernels as Required<Backend["kernels"]>
      const results = maps(together, [operand(p, a), operand(q, b)], [0.25], out)
      for (const [j, other] of results.entries()) if (j !== i) backend.free(other)
      return results[i] as DeviceBuffer
    },
    expected: tabulate(out, (...c) => value(spread(x, c), spread(y, c))).data,
    tolerance: "elementwise",
  }))
}

export const mapsCases: readonly KernelCase[] = mapShapes.flatMap(severalAtOnce)

/** Coordinates along every axis, into i32. */
function reading([, , out]: (typeof mapShapes)[number]): KernelCase {
  const expr = out
    .map((_, axis) => call("mul", coordinate(axis), scalar(axis)))
    .reduce((p, q) => call("add", p, q), scalar(9))
  const weights = [1000, 100, 10, 1]
  return {
    label: `map of coordinates [${out}]`,
    inputs: [],
    run: ({ kernels }) => kernels.map(expr, [], [...weights, 0, 0, 0, 0, 0, 4], out, "i32"),
    expected: tabulate(out, (...c) => 4 + sum(c.length, (i) => (c[i] as number) * (weights[i] as number))).data,
    dtype: "i32",
  }
}

const axes: readonly (readonly [outer: number, n: number, inner: number])[] = [
  [1, 1, 1],
  [0, 3, 2],
  [2, 0, 3],
  [2, 3, 0],
  [1, 257, 1],
  [3, 7, 5],
  [7, 1, 9],
  [33, 65, 1],
  [1, 65, 33],
  [5, 17, 3],
]

function reduceCase(op: "sum" | "max", outer: number, n: number, inner: number): KernelCase {
  const data = numbers("reduce", outer * n * inner)
  const x = host([outer, n, inner], data)
  const terms = (o: number, i: number): number[] => Array.from({ length: n }, (_, j) => at(x, o, j, i))
  return {
    label: `${op} of [${outer}, ${n}, ${inner}]`,
    inputs: [{ data }],
    run: ({ kernels }, [buffer]) => kernels.reduce(op, buffer as DeviceBuffer, { outer, n, inner }),
    expected: tabulate([outer, inner], (o, i) =>
      op === "sum" ? sum(n, (j) => at(x, o, j, i)) : Math.max(...terms(o, i)),
    ).data,
    ...(op === "sum" ? { tolerance: "reduce" } : {}),
  }
}

/** Minus a number of 16 bits into the same type, odd lengths among them: two numbers share a word. */
function halfMap([a, , out]: (typeof mapShapes)[number], dtype: HalfType): KernelCase {
  const { data } = halves(sizeOf(a), dtype)
  const x = host(a, data)
  return {
    label: `map of ${dtype} [${a}] to ${dtype} [${out}]`,
    inputs: [{ data, dtype }],
    run: ({ kernels }, [p]) => kernels.map(call("neg", input(0)), [operand(p, a)], [], out, dtype),
    expected: tabulate(out, (...c) => spread(x, c) ^ 0x8000).data,
    dtype,
  }
}

export function mapCases(dtypes: readonly DType[]): readonly KernelCase[] {
  const stored = halfTypes(dtypes).flatMap((dtype) => mapShapes.map((shapes) => halfMap(shapes, dtype)))
  return [...mapShapes.map(broadcasting), ...mapShapes.map(reading), ...stored]
}

export const reduceCases: readonly KernelCase[] = axes.flatMap(([outer, n, inner]) => [
  reduceCase("sum", outer, n, inner),
  reduceCase("max", outer, n, inner),
])
