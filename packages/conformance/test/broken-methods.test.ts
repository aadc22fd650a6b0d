/** The kit tests itself: methods broken on purpose, each refused by the check that is meant for it. */
import { type AdapterMethod, assign, type Context, dropout, hold, type Params, param, type Tensor } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { fakeBackend, testAdapter } from "../src/index.ts"
import { collect } from "./collect.ts"

/** y = W x + B A x, nothing else. */
const sound: AdapterMethod = {
  kind: "site",
  specVersion: 1,
  name: "sound",
  config: { r: 2 },
  sites: ["linear"],
  mergeable: true,
  init: ({ site, init }) => ({
    params: { A: param(init.uniform("A", [2, site.in], -0.5, 0.5)), B: param(init.zeros([site.out, 2])) },
  }),
  forward: (x, next, params) => next(x).add(update(x, params)),
}

const update = (x: Tensor, { A, B }: Params): Tensor => x.matmul((A as Tensor).T).matmul((B as Tensor).T)

const kept: Tensor[] = []
const counted = { draws: 0 }
const drawn = (x: Tensor, { training }: Context): Tensor => (training ? dropout(x, 0.5, [7, counted.draws++]) : x)

const broken: Readonly<Record<string, { check: string; message: RegExp; change: Partial<AdapterMethod> }>> = {
  "not the identity at first": {
    check: "just initialised, it changes nothing",
    message: /^losses: value/,
    change: { forward: (x, next, params) => next(x).add(update(x, params)).mul(1.01) },
  },
  "a parameter that never learns": {
    check: "its trainable parameters get gradients, all of them, and nothing else does",
    message: /tensors got gradients, not/,
    change: { forward: (x, next, { A, B }) => next(x).add(update(x, { A: (A as Tensor).detach(), B: B as Tensor })) },
  },
  "a gradient that is cut on the way": {
    check: "gradients agree with finite differences",
    message: /finite differences say/,
    change: { forward: (x, next, params) => next(x).add(update(x, params).mul(update(x, params).detach().add(1))) },
  },
  "hidden random state": {
    check: "a block that is computed again draws the same dropout and gives the same gradients",
    message: /value \d+ is|the loss is/,
    change: { forward: (x, next, params, context) => next(x).add(update(drawn(x, context), params)) },
  },
  "dropout in evaluation": {
    check: "without training it draws nothing: the same losses whatever the step",
    message: /^losses: value/,
    change: {
      forward: (x, next, params) => next(x).add(update(dropout(x, 0.5, [7, counted.draws++]), params)),
    },
  },
  "a tensor kept at every step": {
    check: "twenty steps lower the loss and leave no buffer behind",
    message: /buffers after two steps/,
    change: {
      forward(x, next, params) {
        kept.push(hold(x.mul(1)))
        return next(x).add(update(x, params))
      },
    },
  },
  "a base that is written": {
    check: "disable gives exactly the base, enable exactly the adapter, detach exactly the base and its memory",
    message: /^disabled: value/,
    change: {
      init(context) {
        const { tensor } = context.site.base.parts[0] as { tensor: Tensor }
        assign(tensor, tensor.mul(1.001))
        return sound.init(context)
      },
    },
  },
  "a config that JSON cannot hold": {
    check: "its config survives JSON",
    message: /JSON (drops|loses)/,
    change: { config: { limit: Number.POSITIVE_INFINITY } },
  },
  "a config that is read as another method": {
    check: "the config it reads back describes the same method",
    message: /was read, not/,
    change: {
      format: {
        peftType: "BROKEN",
        defaults: {},
        supported: [],
        read: () => ({ ...sound, config: { r: 3 } }),
        write: () => ({}),
        tensorName: (name) => name,
      },
    },
  },
  "steps that go uphill": {
    check: "twenty steps lower the loss and leave no buffer behind",
    message: /the loss went from/,
    change: {
      afterStep: ({ sites, set }) => {
        for (const { params, gradients } of sites.values())
          for (const [key, g] of Object.entries(gradients)) set(params[key] as Tensor, (params[key] as Tensor).add(g))
      },
    },
  },
}

describe("broken methods", () => {
  for (const [what, { check, message, change }] of Object.entries(broken)) {
    it(`${what}: "${check}"`, async () => {
      const options = { name: what, backends: { fake: () => fakeBackend() } }
      const checks = collect((runner) => testAdapter({ ...sound, ...change }, { ...options, ...runner }))
      await expect(checks.get(check)?.()).rejects.toThrow(message)
    })
  }

  it("the one they are made from passes every check", async () => {
    const checks = collect((runner) => testAdapter(sound, { backends: { fake: () => fakeBackend() }, ...runner }))
    for (const run of checks.values()) await run()
    expect(checks.size).toBeGreaterThan(12)
  })
})
