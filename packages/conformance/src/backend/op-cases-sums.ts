/** Products that meet additions, which a backend may compute as one sum: whoever asks for a part of it, and when, must not matter. */
import type { Tensor } from "@peftjs/core"
import { at, type Host, sum, tabulate } from "./host.ts"
import { type OpCase, real } from "./op-check.ts"

const t = (x: readonly Tensor[], i: number): Tensor => x[i] as Tensor
const h = (x: readonly Host[], i: number): Host => x[i] as Host

/** x [2, 3, k] · wᵀ for w [n, k], at a coordinate. */
const layer = (x: Host, w: Host, b: number, i: number, o: number): number =>
  sum(w.shape[1] as number, (p) => at(x, b, i, p) * at(w, o, p))

const [inputs, outputs, rank] = [5, 4, 2]
const x = real("x", [2, 3, inputs])
const weight = real("weight", [outputs, inputs])
const residual = real("residual", [2, 3, outputs])

const adapted: OpCase = {
  name: "a layer, its adapter and a residual, added up",
  fused: ["sumOfProducts"],
  inputs: [x, weight, real("A", [rank, inputs]), real("B", [outputs, rank]), residual],
  run(given) {
    const low = t(given, 0).matmul(t(given, 2).T).mul(0.5)
    return t(given, 4).add(
      t(given, 0)
        .matmul(t(given, 1).T)
        .add(low.matmul(t(given, 3).T)),
    )
  },
  reference: (given) =>
    tabulate([2, 3, outputs], (b, i, o) => {
      const low = (r: number): number => 0.5 * layer(h(given, 0), h(given, 2), b, i, r)
      const update = sum(rank, (r) => low(r) * at(h(given, 3), o, r))
      return at(h(given, 4), b, i, o) + layer(h(given, 0), h(given, 1), b, i, o) + update
    }),
}

const askedTwice: OpCase = {
  name: "a product that is added to something and then asked for itself",
  fused: ["sumOfProducts"],
  inputs: [x, weight, residual],
  run(given) {
    const product = t(given, 0).matmul(t(given, 1).T)
    const sums = product.add(t(given, 2))
    return sums.mul(product).add(product.mul(3))
  },
  reference: (given) =>
    tabulate([2, 3, outputs], (b, i, o) => {
      const product = layer(h(given, 0), h(given, 1), b, i, o)
      return (product + at(h(given, 2), b, i, o)) * product + 3 * product
    }),
}

const manyLayers: OpCase = {
  name: "an input of several layers",
  fused: ["sumOfProducts"],
  inputs: [x, weight, real("second", [outputs, inputs]), real("square", [inputs, inputs])],
  run(given) {
    const [one, two] = [t(given, 0).matmul(t(given, 1).T), t(given, 0).matmul(t(given, 2).T)]
    const square = t(given, 0).add(t(given, 0).matmul(t(given, 3).T))
    return one.mul(two).sum(-1, { keepdims: true }).add(square)
  },
  reference: (given) =>
    tabulate([2, 3, inputs], (b, i, o) => {
      const of = (w: number, row: number): number => layer(h(given, 0), h(given, w), b, i, row)
      return sum(outputs, (r) => of(1, r) * of(2, r)) + at(h(given, 0), b, i, o) + of(3, o)
    }),
}

/** [2, 3] and [3, 2] have as many elements: shapes decide what goes together, not sizes. */
const otherShapes: OpCase = {
  name: "products of other shapes, turned and joined",
  fused: ["sumOfProducts"],
  inputs: [real("a", [2, inputs]), real("b", [3, inputs]), real("c", [6, 1])],
  run(given) {
    const [p, q] = [t(given, 0).matmul(t(given, 1).T), t(given, 1).matmul(t(given, 0).T)]
    return p
      .reshape([6, 1])
      .add(q.reshape([6, 1]))
      .add(t(given, 2))
      .add(p.reshape([6, 1]).mul(-2))
  },
  reference: (given) =>
    tabulate([6, 1], (i) => {
      const dot = (r: number, s: number): number => sum(inputs, (p) => at(h(given, 0), r, p) * at(h(given, 1), s, p))
      const [p, q] = [dot(Math.floor(i / 3), i % 3), dot(i % 2, Math.floor(i / 2))]
      return p + q + at(h(given, 2), i, 0) - 2 * p
    }),
}

export const sumOpCases: readonly OpCase[] = [adapted, askedTwice, manyLayers, otherShapes]
