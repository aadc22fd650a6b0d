/** IA³ (Liu et al. 2022, arXiv 2205.05638) in PEFT's spelling: a learned vector scales a layer's output, or the input of feed-forward layers. */
import { type AdapterFormat, type AdapterMethod, fromPattern, type PeftConfig, param, type Tensor } from "@peftjs/core"
import { describe, it } from "vitest"
import { fakeBackend, testAdapter } from "../../src/index.ts"

function ia3(options: { feedforward?: readonly string[] } = {}): AdapterMethod {
  const { feedforward = [] } = options
  const patterns = Object.fromEntries(feedforward.map((name) => [name, true]))
  const scalesInput = (path: string): boolean => fromPattern(patterns, path, false)
  return {
    ...{ kind: "site", specVersion: 1, name: "ia3", config: { feedforward }, sites: ["linear"], mergeable: true },
    format,
    init: ({ site, init }) => ({
      params: { l: param(init.ones(scalesInput(site.path) ? [1, site.in] : [site.out, 1])) },
    }),
    forward(x, next, params, { site }) {
      const l = (params.l as Tensor).reshape([-1])
      return scalesInput(site.path) ? next(x.mul(l)) : next(x).mul(l)
    },
  }
}

const format: AdapterFormat = {
  peftType: "IA3",
  defaults: { fan_in_fan_out: false, feedforward_modules: null, init_ia3_weights: true },
  supported: ["feedforward_modules"],
  read: (config: PeftConfig) => ia3({ feedforward: (config.feedforward_modules ?? []) as string[] }),
  write: ({ config }) => ({ feedforward_modules: config.feedforward }),
  tensorName: () => "ia3_l",
}

testAdapter(ia3({ feedforward: ["down_proj"] }), { describe, it, name: "IA3 sketch", backends: { fake: fakeBackend } })
