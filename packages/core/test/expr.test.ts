/** Elementwise expressions: derivatives against finite differences, what is folded, keys. */
import { describe, expect, it } from "vitest"
import {
  call,
  constant,
  coordinate,
  differentiate,
  type Expr,
  exprKey,
  input,
  inputsOf,
  isLeaf,
  renameInputs,
  type ScalarFunction,
  scalar,
  scalarFunctions,
} from "../src/index.ts"

function evaluate(e: Expr, inputs: readonly number[]): number {
  if (!isLeaf(e)) return scalarFunctions[e.op].value(...e.args.map((a) => evaluate(a, inputs)))
  if (e.op === "const") return e.value
  if (e.op === "input") return inputs[e.index] as number
  throw new Error(`no value for ${e.op}`)
}

function slope(e: Expr, at: readonly number[], index: number): number {
  const moved = (by: number): number =>
    evaluate(
      e,
      at.map((x, i) => (i === index ? x + by : x)),
    )
  return (moved(1e-6) - moved(-1e-6)) / 2e-6
}

const x = input(0)
const y = input(1)

describe("derivatives", () => {
  for (const [name, { arity }] of Object.entries(scalarFunctions)) {
    it(`of ${name}, and of what is composed with it`, () => {
      const args = [call("add", call("mul", x, x), constant(0.3)), call("exp", y), call("sin", x)].slice(0, arity)
      const e = call("mul", call(name as ScalarFunction, ...args), y)
      for (const at of [
        [0.7, 0.4],
        [-1.2, 0.9],
        [0.1, 1.3],
      ]) {
        for (const index of [0, 1]) expect(evaluate(differentiate(e, index), at)).toBeCloseTo(slope(e, at, index), 4)
      }
    })
  }

  it("a branch that is not taken may have none", () => {
    const root = call("select", call("lt", constant(0), x), call("sqrt", x), constant(0))
    expect(evaluate(differentiate(root, 0), [0])).toBe(0)
    expect(evaluate(differentiate(root, 0), [4])).toBe(0.25)
  })

  it("of what does not depend on the input is 0, and of the input 1", () => {
    expect(differentiate(call("mul", y, scalar(0)), 0)).toEqual(constant(0))
    expect(differentiate(call("floor", x), 0)).toEqual(constant(0))
    expect(differentiate(call("add", x, y), 0)).toEqual(constant(1))
  })
})

describe("expressions", () => {
  it("fold constants and neutral elements", () => {
    expect(call("add", constant(2), constant(3))).toEqual(constant(5))
    for (const e of [
      call("mul", x, constant(1)),
      call("add", constant(0), x),
      call("sub", x, constant(0)),
      call("div", x, constant(1)),
    ])
      expect(e).toEqual(x)
  })

  it("name their operands", () => {
    const e = call("select", input(4), { op: "uniform", index: 2 }, call("add", input(4), scalar(1)))
    expect(inputsOf(e)).toEqual([2, 4])
    expect(inputsOf(renameInputs(e, (i) => i + 10))).toEqual([12, 14])
  })

  it("have one key each", () => {
    const all = [
      x,
      y,
      scalar(0),
      coordinate(0),
      { op: "uniform", index: 0 } as const,
      constant(0),
      call("add", x, y),
      call("add", y, x),
    ]
    expect(new Set(all.map(exprKey)).size).toBe(all.length)
    expect(exprKey(call("add", input(0), input(1)))).toBe(exprKey(call("add", x, y)))
  })

  it("with the wrong number of arguments are refused", () => {
    expect(() => call("add", x)).toThrow(/E_INTERNAL/)
  })
})
