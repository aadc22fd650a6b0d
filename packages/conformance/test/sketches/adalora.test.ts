/**
 * AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): an update B Λ A in the form of a singular value decomposition, kept near orthogonal by a
 * penalty; as the budget shrinks, the least important singular values of all layers together are set to zero.
 */
import {
  type AdapterMethod,
  adapt,
  call,
  concat,
  input,
  map,
  type Params,
  param,
  type StepState,
  scalar,
  type Tensor,
} from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { fakeBackend, testAdapter, toyModel, toyStep } from "../../src/index.ts"

type Triple = Record<"A" | "B" | "E", Tensor>

// ‖P - I‖ without an identity matrix: ‖P‖² - 2·trace P + r.
function apart(P: Tensor, trace: Tensor): Tensor {
  return P.square()
    .sum()
    .sub(trace.mul(2))
    .add(P.shape[0] as number)
    .sqrt()
}

/** 1 for the n largest scores, 0 for the others. */
function largest(scores: Tensor, n: number): Tensor {
  const larger = map(call("lt", input(0), input(1)), [scores.reshape([-1, 1]), scores]).sum(1)
  return map(call("lt", input(0), scalar(0)), [larger], { scalars: [n] })
}

/** How much the loss depends on each singular triple: |value · gradient|, averaged over its vectors. */
function sensitivity(params: Params, gradients: Params): Tensor {
  const [A, B, E] = ["A", "B", "E"].map((key) => (params[key] as Tensor).mul(gradients[key] as Tensor).abs())
  return (E as Tensor)
    .sum(1)
    .add((A as Tensor).mean(1))
    .add((B as Tensor).mean(0))
}

/** Smooths every site's sensitivities and sets all but `budget` singular values to zero. */
function allocate(
  sites: readonly { params: Params; gradients: Params }[],
  set: StepState["set"],
  budget: number,
): void {
  const importances = sites.map(({ params, gradients }) => {
    const importance = (params.importance as Tensor).mul(0.85).add(sensitivity(params, gradients).mul(0.15))
    set(params.importance as Tensor, importance)
    return importance
  })
  const kept = largest(concat(importances, 0), budget).reshape([sites.length, -1, 1])
  for (const [i, { params }] of sites.entries()) {
    const E = params.E as Tensor
    set(E, E.mul(kept.slice(0, i, i + 1).reshape(E.shape)))
  }
}

function adalora(options: { r: number; alpha: number; weight: number; target: number; steps: number }): AdapterMethod {
  const { r, alpha, weight, target, steps } = options
  return {
    ...{ kind: "site", specVersion: 1, name: "adalora", config: { ...options }, sites: ["linear"], mergeable: true },
    init({ site, init }) {
      const [A, B] = [init.normal("A", [r, site.in], 0.02), init.normal("B", [site.out, r], 0.02)]
      const importance = param(init.zeros([r]), { trainable: false, saved: false })
      return { params: { A: param(A), B: param(B), E: param(init.zeros([r, 1])), importance } }
    },
    forward(x, next, params) {
      const { A, B, E } = params as Triple
      const inner = x.matmul(A.mul(E).T)
      return next(x).add(inner.matmul(B.T).mul(alpha / r))
    },
    penalty(params, { count }) {
      const { A, B } = params as Triple
      const rows = apart(A.matmul(A.T), A.square().sum())
      return rows.add(apart(B.T.matmul(B), B.square().sum())).mul(weight / (2 * count))
    },
    afterStep({ step, sites, set }) {
      const total = sites.size * r
      allocate([...sites.values()], set, Math.max(target, Math.round(total - ((total - target) * step) / steps)))
    },
  }
}

const method = adalora({ r: 3, alpha: 6, weight: 0.1, target: 4, steps: 10 })
testAdapter(method, { describe, it, name: "AdaLoRA sketch", backends: { fake: fakeBackend } })

describe("AdaLoRA sketch", () => {
  it("at the end of its schedule only the budget's singular values are not zero", async () => {
    const model = adapt(toyModel(fakeBackend()), method, { targetModules: "all-linear" })
    const rate = 0.02
    const large: number[] = []
    for (let step = 0; step < 14; step++) {
      await toyStep(model, step, rate)
      const values: number[] = []
      for (const { params } of model.view.adapters[0]?.sites.values() ?? [])
        values.push(...((await params.E?.value.data()) ?? []))
      large.push(values.filter((e) => e !== 0).length)
    }
    expect(large.slice(10).every((n) => n <= 4)).toBe(true)
    expect(Math.max(...large)).toBeGreaterThan(4)
    expect(large.at(-1)).toBeGreaterThan(0)
  })
})
