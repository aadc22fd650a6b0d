/** A long training on the fake backend: as many buffers after step 200 as after step 10, and two that take turns as if each were alone. */
import { type AdapterMethod, adapt, engineOf, type Model, param, type Tensor } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { type FakeBackend, fakeBackend, toyModel, toyStep } from "../src/index.ts"

/** y = W x + B A x, with dropout. */
const lowRank: AdapterMethod = {
  kind: "site",
  specVersion: 1,
  name: "low rank",
  config: {},
  sites: ["linear"],
  mergeable: true,
  init: ({ site, init }) => ({
    params: { A: param(init.uniform("A", [2, site.in], -0.3, 0.3)), B: param(init.zeros([site.out, 2])) },
  }),
  forward: (x, next, { A, B }, { dropout }) =>
    next(x).add(
      dropout(x, 0.1)
        .matmul((A as Tensor).T)
        .matmul((B as Tensor).T),
    ),
}

const start = (backend: FakeBackend, seed: number): Model =>
  adapt(toyModel(backend, seed), lowRank, { targetModules: "all-linear", seed })

describe("training on the fake backend", () => {
  it("200 steps: the loss falls, and as many buffers live as after 10", async () => {
    const backend = fakeBackend({ deferred: true })
    const model = start(backend, 0)
    const [losses, live]: [number[], number[]] = [[], []]
    for (let step = 1; step <= 200; step++) {
      losses.push(await toyStep(model, step))
      live[step] = backend.live()
    }
    expect(live[200]).toBe(live[10])
    expect(engineOf(backend).liveBuffers).toBe(live[200])
    expect(losses.at(-1)).toBeLessThan((losses[0] as number) - 1)
  })

  it("two that take turns on one backend give the losses of each alone", async () => {
    const run = async (model: Model): Promise<number[]> => {
      const losses: number[] = []
      for (let step = 0; step < 10; step++) losses.push(await toyStep(model, step))
      return losses
    }
    const alone = [await run(start(fakeBackend(), 1)), await run(start(fakeBackend(), 2))]
    const backend = fakeBackend()
    expect(await Promise.all([run(start(backend, 1)), run(start(backend, 2))])).toEqual(alone)
  })
})
