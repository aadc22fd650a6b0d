/** VeRA (Kopiczko et al. 2024, arXiv 2310.11454): y = W x + b ∘ B (d ∘ A x), with A and B frozen, random and shared by all layers. */
import { type AdapterMethod, param, type Tensor } from "@peftjs/core"
import { describe, it } from "vitest"
import { fakeBackend, testAdapter } from "../../src/index.ts"

function vera(options: { r: number; dInitial?: number; dropout?: number }): AdapterMethod {
  const { r, dInitial = 0.1, dropout = 0 } = options
  return {
    ...{ kind: "site", specVersion: 1, name: "vera", config: { ...options }, sites: ["linear"], mergeable: true },
    setup(sites, init) {
      const [rows, columns] = [Math.max(...sites.map((s) => s.out)), Math.max(...sites.map((s) => s.in))]
      const bound = (fanIn: number): number => Math.sqrt(6 / fanIn)
      return {
        A: init.uniform("A", [r, columns], -bound(columns), bound(columns)),
        B: init.uniform("B", [rows, r], -bound(r), bound(r)),
      }
    },
    init: ({ site, init }) => ({
      params: { d: param(init.ones([r]).mul(dInitial)), b: param(init.zeros([site.out])) },
    }),
    forward(x, next, params, { site, shared, ...context }) {
      const [A, B] = [(shared.A as Tensor).slice(1, 0, site.in), (shared.B as Tensor).slice(0, 0, site.out)]
      const inner = context
        .dropout(x, dropout)
        .matmul(A.T)
        .mul(params.d as Tensor)
      return next(x).add(inner.matmul(B.T).mul(params.b as Tensor))
    },
  }
}

testAdapter(vera({ r: 5, dropout: 0.1 }), { describe, it, name: "VeRA sketch", backends: { fake: fakeBackend } })
