import { cpu } from "@peftjs/backend-cpu"
import { type Backend, engineOf, hold, noGrad, scope, type Tensor, tensor } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { adamw, type Optimizer, sgd } from "../src/index.ts"
import { freeState, initState } from "../src/optimizer.ts"
import { largestDifference } from "./helpers.ts"

const backend = await cpu({ kernels: "reference" })
const start = Float32Array.of(1, -2, 0.5, 3)

/** Five steps with gradient g = p² - step, scaled by a half; every step's parameter. */
async function steps(optimizer: Optimizer, on: Backend, decay = true): Promise<number[]> {
  const engine = engineOf(on)
  const held = (data: Float32Array): Tensor => noGrad(engine, () => scope(engine, () => hold(tensor(on, data, [2, 2]))))
  const p = held(start)
  const state = initState(optimizer, [{ name: "p", tensor: p, decay }])
  const seen: number[] = []
  for (let count = 1; count <= 5; count++) {
    const gradient = held(Float32Array.from((await p.data()) as Float32Array, (x) => x * x - count))
    const how = { count, learningRate: optimizer.learningRate, gradScale: 0.5, decay }
    noGrad(engine, () => scope(engine, () => optimizer.update(p, gradient, state.get("p") ?? {}, how)))
    seen.push(...((await p.data()) as Float32Array))
  }
  freeState(state)
  return seen
}

// Made by torch 2.15.0 in float64 with torch.optim.AdamW and SGD on the same gradients.
const torch = {
  adamw: [
    0.995, -2.089999933, 0.597499733, 2.885000025, 1.06660284, -2.178169684, 0.690446047, 2.771943917, 1.14729096,
    -2.262910937, 0.782762866, 2.662374924, 1.23223322, -2.341613875, 0.875433541, 2.558657543, 1.319911901,
    -2.409853684, 0.968793261, 2.464372893,
  ],
  sgd: [
    0.995, -2.14, 0.535, 2.585, 1.04052375, -2.25828, 0.61801375, 2.33796375, 1.131186648, -2.351980028, 0.745826631,
    2.202970206, 1.261551553, -2.41681063, 0.91428463, 2.149301469, 1.425668179, -2.446775258, 1.117917388, 2.157580121,
  ],
  momentum: [
    0.995, -2.14, 0.535, 2.585, 1.03602375, -2.38428, 0.64951375, 1.96446375, 1.164097746, -2.726450156, 0.878235151,
    1.353202915, 1.405787675, -3.192447568, 1.241128387, 0.904744242, 1.767467724, -3.855469075, 1.734506673,
    0.705679609,
  ],
  nesterov: [
    0.9905, -2.266, 0.5665, 2.2115, 1.073836676, -2.65567482, 0.748980636, 1.579721186, 1.272697653, -3.235284058,
    1.064796305, 1.184073296, 1.587427669, -4.170151297, 1.504818833, 1.047955791, 1.989827401, -5.872521694,
    2.022229942, 1.17458404,
  ],
}

const without = (on: Backend): Backend => {
  const { adamw: _, ...kernels } = on.kernels
  return { ...on, upload: on.upload, free: on.free, read: on.read, flush: on.flush, kernels }
}

describe("optimizers follow PyTorch", () => {
  const options = { learningRate: 0.1, weightDecay: 0.05 }
  it.each([
    ["adamw", adamw({ ...options, beta1: 0.8, beta2: 0.9, epsilon: 1e-6 }), torch.adamw],
    ["sgd", sgd(options), torch.sgd],
    ["sgd with momentum", sgd({ ...options, momentum: 0.9 }), torch.momentum],
    ["sgd with Nesterov momentum", sgd({ ...options, momentum: 0.9, nesterov: true }), torch.nesterov],
  ])("%s", async (_, optimizer, expected) => {
    expect(largestDifference(await steps(optimizer, backend), expected)).toBeLessThan(2e-6)
  })

  it("adamw is the same with and without the backend's kernel", async () => {
    const fast = await cpu()
    expect(fast.kernels.adamw).toBeDefined()
    const optimizer = adamw({ ...options, beta1: 0.8, beta2: 0.9, epsilon: 1e-6 })
    const [kernel, expressions] = [await steps(optimizer, fast), await steps(optimizer, without(fast))]
    expect(largestDifference(kernel, torch.adamw)).toBeLessThan(2e-6)
    expect(largestDifference(expressions, torch.adamw)).toBeLessThan(2e-6)
  })

  it("leaves out weight decay where a parameter has none", async () => {
    const decayed = adamw({ learningRate: 0.1, weightDecay: 0.5 })
    expect(await steps(decayed, backend, false)).toEqual(await steps(adamw({ learningRate: 0.1 }), backend))
  })
})

describe("options", () => {
  it.each([
    () => adamw({ learningRate: -1 }),
    () => adamw({ learningRate: Number.NaN }),
    () => adamw({ beta1: 1 }),
    () => adamw({ weightDecay: Number.POSITIVE_INFINITY }),
    () => sgd({ momentum: 1.5 }),
    () => sgd({ nesterov: true }),
  ])("%s is refused", (make) => expect(make).toThrow(/E_OPTION/))
})
