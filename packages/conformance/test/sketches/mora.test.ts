/**
 * MoRA with rotation (Jiang et al. 2024, arXiv 2405.12130, equations 6 and 9): x is cut into n blocks of R̂, block b is turned by angles
 * b · 10000^(-2j/R̂) in the half-split layout of the authors' code, and one square matrix M multiplies every block.
 */
import { type AdapterMethod, concat, type Init, makeInit, param, type Site, type Tensor, tensor } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { fakeBackend, testAdapter } from "../../src/index.ts"

/** f of the angles b · 10000^(-2j/R̂) for blocks b < n and j < R̂/2. */
function table(n: number, R: number, f: (angle: number) => number): (init: Init) => Tensor {
  const half = R / 2
  const angle = (i: number): number => Math.floor(i / half) * 10000 ** (-(i % half) / half)
  return (init) =>
    init.tensor(
      Float32Array.from({ length: n * half }, (_, i) => f(angle(i))),
      [n, half],
    )
}

function mora({ r }: { r: number }): AdapterMethod {
  const sizeAt = (site: Site): number => Math.floor(Math.floor(Math.sqrt((site.in + site.out) * r) + 0.5) / 2) * 2
  return {
    ...{ kind: "site", specVersion: 1, name: "mora", config: { r }, sites: ["linear"], mergeable: true },
    init: ({ site, init }) => ({ params: { M: param(init.zeros([sizeAt(site), sizeAt(site)])) } }),
    forward(x, next, { M }, { site, constant }) {
      const R = sizeAt(site)
      const n = Math.ceil(site.in / R)
      const cos = constant(`cos ${n} ${R}`, table(n, R, Math.cos))
      const sin = constant(`sin ${n} ${R}`, table(n, R, Math.sin))
      const padded = concat([x, x.slice(-1, 0, n * R - site.in)], -1)
      const blocks = padded.reshape([...x.shape.slice(0, -1), n, R])
      const [left, right] = [blocks.slice(-1, 0, R / 2), blocks.slice(-1, R / 2, R)]
      const turned = concat([left.mul(cos).sub(right.mul(sin)), right.mul(cos).add(left.mul(sin))], -1)
      const y = turned.matmul((M as Tensor).T).reshape([...x.shape.slice(0, -1), n * R])
      const copies = Array<Tensor>(Math.ceil(site.out / (n * R))).fill(y)
      return next(x).add(concat(copies, -1).slice(-1, 0, site.out))
    },
  }
}

testAdapter(mora({ r: 1 }), { describe, it, name: "MoRA sketch, rotation", backends: { fake: fakeBackend } })

describe("MoRA sketch, rotation, against the authors' code", () => {
  // in, out, what M = 1…16 is divided by, y for x = 1…in; worked out with float64.
  const golden: readonly (readonly [number, number, number, readonly number[]])[] = [
    [10, 7, 1, [30, 70, 110, 150, 64.857427, 139.977371, 215.097315]],
    [6, 14, 10, [3, 7, 11, 15, 3.630201, 9.48912, 15.348039, 21.206957, 3, 7, 11, 15, 3.630201, 9.48912]],
  ]
  for (const [columns, rows, divisor, expected] of golden) {
    it(`${columns} to ${rows} features`, async () => {
      const backend = fakeBackend()
      const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i + 1)
      const site = { path: "x", kind: "linear", in: columns, out: rows, param: "x.weight" } as Site
      const constant = (_: string, make: (init: Init) => Tensor): Tensor => make(makeInit(backend, 0, ""))
      const M = tensor(
        backend,
        count(16).map((m) => m / divisor),
        [4, 4],
      )
      const none = (): Tensor => tensor(backend, Array(rows).fill(0), [1, rows])
      const x = tensor(backend, count(columns), [1, columns])
      const y = mora({ r: 1 }).forward(x, none, { M }, { site, constant } as never)
      for (const [i, value] of (await y.data()).entries()) expect(value).toBeCloseTo(expected[i] as number, 4)
    })
  }
})
