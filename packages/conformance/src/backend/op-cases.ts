/** Operations that move, combine, multiply and look up elements. */
import type { Shape, Tensor } from "@peftjs/core"
import { call, checkpoint, concat, coordinate, denseWeight, input, map, scalar } from "@peftjs/core"
import { at, type Host, host, spread, sum, tabulate } from "./host.ts"
import { networkCases } from "./op-cases-nn.ts"
import { sumOpCases } from "./op-cases-sums.ts"
import { ints, type OpCase, real } from "./op-check.ts"

type Unary = "neg" | "exp" | "log" | "sqrt" | "rsqrt" | "abs" | "tanh" | "sigmoid" | "silu" | "square"
const unary: Readonly<Record<Unary, (x: number) => number>> = {
  neg: (x) => -x,
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  rsqrt: (x) => 1 / Math.sqrt(x),
  abs: Math.abs,
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  silu: (x) => x / (1 + Math.exp(-x)),
  square: (x) => x * x,
}
const binary = {
  add: (x: number, y: number) => x + y,
  sub: (x: number, y: number) => x - y,
  mul: (x: number, y: number) => x * y,
  div: (x: number, y: number) => x / y,
} as const
type Binary = keyof typeof binary

/** Inputs by position: the cases below fix how many there are. */
const [first, second] = [0, 1]
const x0 = <T>(x: readonly T[]): T => x[first] as T
const x1 = <T>(x: readonly T[]): T => x[second] as T

function unaryCase(name: Unary): OpCase {
  const positive = name === "log" || name === "sqrt" || name === "rsqrt"
  return {
    name,
    inputs: [real(name, [3, 5], positive ? 0.5 : -2, 2)],
    run: (x) => x0(x)[name](),
    reference: (x) => ({ shape: [3, 5], data: x0(x).data.map(unary[name]) }),
    tolerance: "elementwiseGradient",
  }
}

function binaryCase(name: Binary, a: Shape, b: Shape, out: Shape): OpCase {
  return {
    name: `${name} [${a}] [${b}]`,
    inputs: [real("a", a), real("b", b, 0.5, 2)],
    run: (x) => x0(x)[name](x1(x)),
    reference: (x) => tabulate(out, (...c) => binary[name](spread(x0(x), c), spread(x1(x), c))),
    tolerance: "reduce",
  }
}

const gate = call("mul", call("mul", input(0), call("sigmoid", input(0))), input(1))

/** silu(a) · b: both gradients share what is expensive. */
function gatedCase(a: Shape, b: Shape, out: Shape): OpCase {
  return {
    name: `silu [${a}] times [${b}] in one expression`,
    fused: ["maps"],
    inputs: [real("gate", a, -2, 2), real("up", b)],
    run: (x) => map(gate, [x0(x), x1(x)]),
    reference: (x) => tabulate(out, (...c) => unary.silu(spread(x0(x), c)) * spread(x1(x), c)),
  }
}

function reduceCase(op: "sum" | "max" | "mean", shape: Shape, axis: number | undefined, keepdims: boolean): OpCase {
  const along = axis === undefined ? undefined : (axis + shape.length) % shape.length
  const kept = shape.map((size, i) => (along === undefined || i === along ? 1 : size))
  const out = keepdims ? kept : shape.filter((_, i) => along !== undefined && i !== along)
  const n = along === undefined ? shape.reduce((p, d) => p * d, 1) : (shape[along] as number)
  return {
    name: `${op} of [${shape}] over ${axis ?? "everything"}${keepdims ? ", keepdims" : ""}`,
    inputs: [real("reduce", shape)],
    run: (x) => x0(x)[op](axis, { keepdims }),
    reference: (x) => {
      const value = (c: readonly number[], j: number): number =>
        along === undefined ? (x0(x).data[j] as number) : at(x0(x), ...c.map((i, k) => (k === along ? j : i)))
      const whole = tabulate(kept, (...c) =>
        op === "max"
          ? Math.max(...Array.from({ length: n }, (_, j) => value(c, j)))
          : sum(n, (j) => value(c, j)) / (op === "mean" ? n : 1),
      )
      return host(out, whole.data)
    },
    tolerance: "reduce",
  }
}

/** [m, k] · [k, n] with either side promised turned round by `.T`. */
function matmulCase(turnA: boolean, turnB: boolean): OpCase {
  const [m, n, k] = [3, 5, 4]
  return {
    name: `matmul${turnA ? " A.T" : ""}${turnB ? " B.T" : ""}`,
    inputs: [real("a", turnA ? [k, m] : [m, k]), real("b", turnB ? [n, k] : [k, n])],
    run: (x) => (turnA ? x0(x).T : x0(x)).matmul(turnB ? x1(x).T : x1(x)),
    reference: (x) =>
      tabulate([m, n], (i, j) =>
        sum(k, (p) => (turnA ? at(x0(x), p, i) : at(x0(x), i, p)) * (turnB ? at(x1(x), j, p) : at(x1(x), p, j))),
      ),
    tolerance: "matmul",
  }
}

const batchedCases: readonly OpCase[] = [
  {
    name: "matmul [2, 3, 4] · [4, 5]",
    inputs: [real("a", [2, 3, 4]), real("b", [4, 5])],
    run: (x) => x0(x).matmul(x1(x)),
    reference: (x) => tabulate([2, 3, 5], (c, i, j) => sum(4, (p) => at(x0(x), c, i, p) * at(x1(x), p, j))),
    tolerance: "matmul",
  },
  {
    name: "matmul [2, 3, 4] · [2, 4, 5]",
    inputs: [real("a", [2, 3, 4]), real("b", [2, 4, 5])],
    run: (x) => x0(x).matmul(x1(x)),
    reference: (x) => tabulate([2, 3, 5], (c, i, j) => sum(4, (p) => at(x0(x), c, i, p) * at(x1(x), c, p, j))),
    tolerance: "matmul",
  },
]

const ids = [3, 0, 3, 3, 5, 1]
/** Rows 0…6 of a table in three parts. */
const parts = [2, 4, 1] as const
const tableInputs = parts.map((rows, i) => real(`part ${i}`, [rows, 3]))
const joined = (x: readonly Host[]): Host =>
  host(
    [7, 3],
    x.flatMap((p) => [...p.data]),
  )

const moveCases: readonly OpCase[] = [
  {
    name: "permute",
    inputs: [real("x", [2, 3, 4])],
    run: (x) => x0(x).permute([2, 0, 1]),
    reference: (x) => tabulate([4, 2, 3], (k, i, j) => at(x0(x), i, j, k)),
    tolerance: "movedGradient",
  },
  {
    name: "T, outside of a product",
    inputs: [real("x", [3, 4])],
    run: (x) => x0(x).T.mul(2),
    reference: (x) => tabulate([4, 3], (i, j) => 2 * at(x0(x), j, i)),
    tolerance: "elementwise",
  },
  {
    name: "slice",
    inputs: [real("x", [2, 5, 3])],
    run: (x) => x0(x).slice(1, 1, 4),
    reference: (x) => tabulate([2, 3, 3], (o, j, i) => at(x0(x), o, j + 1, i)),
    tolerance: "movedGradient",
  },
  {
    name: "concat",
    inputs: [real("a", [2, 1, 3]), real("b", [2, 4, 3])],
    run: (x) => concat(x, 1),
    reference: (x) => tabulate([2, 5, 3], (o, j, i) => (j === 0 ? at(x0(x), o, 0, i) : at(x1(x), o, j - 1, i))),
    tolerance: "movedGradient",
  },
  {
    name: "reshape",
    inputs: [real("x", [2, 6])],
    run: (x) => x0(x).reshape([3, -1]),
    reference: (x) => host([3, 4], x0(x).data),
    tolerance: "movedGradient",
  },
  {
    name: "one tensor used twice",
    inputs: [real("x", [3, 3])],
    run: (x) => x0(x).matmul(x0(x).T).add(x0(x)),
    reference: (x) => tabulate([3, 3], (i, j) => sum(3, (p) => at(x0(x), i, p) * at(x0(x), j, p)) + at(x0(x), i, j)),
    tolerance: "matmul",
  },
  {
    name: "map with coordinates and scalars",
    inputs: [real("x", [3, 4])],
    run: (x) =>
      map(call("mul", call("add", input(0), call("mul", coordinate(1), scalar(0))), input(0)), [x0(x)], {
        scalars: [0.5],
      }),
    reference: (x) => tabulate([3, 4], (i, j) => (at(x0(x), i, j) + 0.5 * j) * at(x0(x), i, j)),
    tolerance: "elementwise",
  },
  {
    name: "gather and scatterAdd: rows of a weight",
    inputs: [real("table", [7, 3]), ints([2, 3], ids)],
    run: (x) => denseWeight([x0(x)]).rows(x1(x)),
    reference: (x) => tabulate([2, 3, 3], (i, j, w) => at(x0(x), x1(x).data[i * 3 + j] as number, w)),
    tolerance: "movedGradient",
  },
  {
    name: "rows of a weight in parts",
    inputs: [...tableInputs, ints([6], ids)],
    run: (x) => denseWeight(x.slice(0, 3)).rows(x[3] as Tensor),
    reference: (x) => tabulate([6, 3], (i, w) => at(joined(x.slice(0, 3)), ids[i] as number, w)),
    tolerance: "movedGradient",
  },
  {
    name: "a range of rows of a weight in parts",
    inputs: tableInputs,
    run: (x) => denseWeight(x).rows({ start: 1, end: 7 }).mul(1),
    reference: (x) => tabulate([6, 3], (i, w) => at(joined(x), i + 1, w)),
    tolerance: "movedGradient",
  },
  {
    name: "x·Wᵀ of a weight in parts",
    inputs: [real("x", [2, 2, 3]), ...tableInputs],
    run: (x) => denseWeight(x.slice(1)).matmul(x0(x)),
    reference: (x) =>
      tabulate([2, 2, 7], (b, i, j) => sum(3, (p) => at(x0(x), b, i, p) * at(joined(x.slice(1)), j, p))),
    tolerance: "matmul",
  },
  {
    name: "x·W of a weight in parts",
    inputs: [real("x", [2, 7]), ...tableInputs],
    run: (x) => denseWeight(x.slice(1)).matmul(x0(x), { transpose: true }),
    reference: (x) => tabulate([2, 3], (i, j) => sum(7, (p) => at(x0(x), i, p) * at(joined(x.slice(1)), p, j))),
    tolerance: "matmul",
  },
  {
    name: "checkpoint",
    inputs: [real("x", [3, 4]), real("w", [4, 4])],
    run: (x) => checkpoint(x0(x).engine, () => x0(x).matmul(x1(x)).tanh().matmul(x1(x))),
    reference: (x) => {
      const h = tabulate([3, 4], (i, j) => Math.tanh(sum(4, (p) => at(x0(x), i, p) * at(x1(x), p, j))))
      return tabulate([3, 4], (i, j) => sum(4, (p) => at(h, i, p) * at(x1(x), p, j)))
    },
  },
]

const ownCases: readonly OpCase[] = [
  ...(Object.keys(unary) as Unary[]).map(unaryCase),
  ...(Object.keys(binary) as Binary[]).flatMap((name) => [
    binaryCase(name, [3, 4], [3, 4], [3, 4]),
    binaryCase(name, [2, 3, 4], [3, 1], [2, 3, 4]),
    binaryCase(name, [1, 4], [2, 3, 1], [2, 3, 4]),
  ]),
  gatedCase([3, 7], [3, 7], [3, 7]),
  gatedCase([2, 3, 4], [3, 1], [2, 3, 4]),
  gatedCase([1, 4], [2, 3, 1], [2, 3, 4]),
  reduceCase("sum", [3, 4, 2], 1, false),
  reduceCase("sum", [3, 4], -1, true),
  reduceCase("sum", [3, 4], undefined, false),
  reduceCase("mean", [3, 4], 0, false),
  reduceCase("max", [3, 4, 2], 1, true),
  reduceCase("max", [3, 4], undefined, false),
  matmulCase(false, false),
  matmulCase(false, true),
  matmulCase(true, false),
  matmulCase(true, true),
  ...batchedCases,
  ...moveCases,
]

export const allOpCases: readonly OpCase[] = [...ownCases, ...networkCases, ...sumOpCases]
