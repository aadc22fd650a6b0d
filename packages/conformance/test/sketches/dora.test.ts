/**
 * DoRA (Liu et al. 2024, arXiv 2402.09353) as PEFT computes it: W' = m · (W + s·B·A) / ‖W + s·B·A‖ per row, the norm held constant in
 * the backward pass. The norm is expanded, so that W + s·B·A never exists and W may be stored in any form.
 */
import { type AdapterMethod, concat, param, type Tensor, type Weight } from "@peftjs/core"
import { describe, it } from "vitest"
import { fakeBackend, testAdapter } from "../../src/index.ts"

function squares(base: Weight): Tensor {
  return concat(
    base.parts.map((part) => base.rows(part).square().sum(1)),
    0,
  )
}

/** ‖W + s·B·A‖ per row, given ‖W‖² per row. */
function norm(base: Weight, ofBase: Tensor, A: Tensor, B: Tensor, s: number): Tensor {
  const mixed = base.matmul(A).T.mul(B).sum(1)
  const ofUpdate = B.matmul(A.matmul(A.T)).mul(B).sum(1)
  return ofBase
    .add(mixed.mul(2 * s))
    .add(ofUpdate.mul(s * s))
    .sqrt()
}

/** `live`: let the gradient through the norm, which finite differences then confirm. */
function dora(options: { r: number; alpha: number; dropout?: number; live?: boolean }): AdapterMethod {
  const { r, alpha, dropout = 0, live = false } = options
  const s = alpha / r
  return {
    ...{ kind: "site", specVersion: 1, name: "dora", config: { ...options }, sites: ["linear"], mergeable: true },
    init({ site, base, init }) {
      const bound = 1 / Math.sqrt(site.in)
      const [A, B] = [init.uniform("A", [r, site.in], -bound, bound), init.zeros([site.out, r])]
      return { params: { A: param(A), B: param(B), m: param(squares(base).sqrt()) } }
    },
    forward(x, next, params, { site, base, bias, ...context }) {
      const { A, B, m } = params as Record<"A" | "B" | "m", Tensor>
      const ofBase = context.constant(`squares of ${site.path}`, () => squares(base))
      const scale = m.div(live ? norm(base, ofBase, A, B, s) : norm(base, ofBase, A.detach(), B.detach(), s))
      const dropped = context.dropout(x, dropout)
      const below = bias ? next(dropped).sub(bias) : next(dropped)
      const update = dropped.matmul(A.T).matmul(B.T).mul(s)
      return next(x)
        .add(below.mul(scale.sub(1)))
        .add(update.mul(scale))
    },
  }
}

const runner = {
  describe,
  it,
  backends: { fake: fakeBackend, "fake, small": () => fakeBackend({ maxBufferBytes: 1664 }) },
}
testAdapter(dora({ r: 2, alpha: 4, live: true }), { ...runner, name: "DoRA sketch, norm with gradient" })
testAdapter(dora({ r: 2, alpha: 4, dropout: 0.1 }), { ...runner, name: "DoRA sketch", detaches: ["A", "B"] })
