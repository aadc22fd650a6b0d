import { cpu } from "@peftjs/backend-cpu"
import {
  type AdapterMethod,
  adapt,
  assign,
  disable,
  engineOf,
  full,
  hold,
  type Model,
  noGrad,
  type StepState,
  scope,
  type Tensor,
  type Trainable,
  trainables,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { describe, expect, it } from "vitest"
import { sumGradients } from "../src/gradients.ts"
import { jsonl, type StepMetrics, type TrainOptions, train } from "../src/index.ts"
import { largestDifference, recordedRows, tinyLlama, valuesOf, withLora } from "./helpers.ts"

const data = recordedRows()
const common: TrainOptions = { maxSteps: 6, batchSize: 2, learningRate: 0.01, seed: 3 }

async function metricsOf(model: Model, options: TrainOptions = {}, rows = data): Promise<StepMetrics[]> {
  const steps: StepMetrics[] = []
  await train(model, rows, { ...common, ...options, onStep: (metrics) => void steps.push(metrics) })
  return steps
}

describe("train", () => {
  it("gives the same loss and gradient however rows are spread over micro-batches", async () => {
    const options = { maxSteps: 1, shuffle: false }
    const [whole] = await metricsOf(await withLora(), { ...options, batchSize: 8 })
    const [spread] = await metricsOf(await withLora(), { ...options, batchSize: 1, gradientAccumulationSteps: 8 })
    expect(spread?.loss).toBeCloseTo(whole?.loss as number, 5)
    expect(spread?.grad_norm).toBeCloseTo(whole?.grad_norm as number, 4)
    expect(spread?.tokens).toBe(whole?.tokens)
  })

  it("takes the length of a run from epochs, and the last group of an epoch may be small", async () => {
    const ten = { ...data, rows: data.rows.slice(0, 10) }
    const steps = await metricsOf(
      await withLora(),
      { epochs: 1.5, batchSize: 2, gradientAccumulationSteps: 3, maxSteps: undefined } as never,
      ten,
    )
    expect(steps).toHaveLength(3)
    expect(steps[1]?.input_tokens).toBeLessThan(steps[0]?.input_tokens as number)
  })

  it("weights the prompt, and reports the response alone beside it", async () => {
    const row = { prompt: "abcd", completion: "efgh" }
    const tokenizer = {
      ...{ eosTokenId: 2, padTokenId: 0, bosTokenId: 1, decode: () => "", applyChatTemplate: () => "" },
      encode: (text: string) => [...text].map((letter) => letter.charCodeAt(0)),
    }
    const options = { maxSteps: 1, tokenizer, learningRate: 0 }
    const model = await withLora()
    const losses = async (more: TrainOptions): Promise<StepMetrics> => {
      const [metrics] = await metricsOf(model, { ...options, ...more }, jsonl([row]))
      return metrics as StepMetrics
    }
    const completion = await losses({})
    const full = await losses({ lossMask: "full" })
    const half = await losses({ promptLossWeight: 0.5 })
    expect([completion.tokens, full.tokens, half.tokens]).toEqual([5, 8, 8])
    for (const metrics of [completion, full, half]) expect(metrics.response_loss).toBeCloseTo(completion.loss, 6)
    // Three prompt tokens can be predicted; the weighted mean divides by the sum of the weights.
    const prompt = full.loss * 8 - completion.loss * 5
    expect(half.loss).toBeCloseTo((completion.loss * 5 + 0.5 * prompt) / (5 + 0.5 * 3), 5)
  })

  it("leaves out micro-batches without labels", async () => {
    const masked = { input_ids: [5, 6, 7], labels: [5, -100, -100] }
    const real = { input_ids: [5, 6, 7], labels: [-100, 6, 7] }
    const options = { maxSteps: 2, shuffle: false, batchSize: 1, gradientAccumulationSteps: 2 }
    const steps = await metricsOf(await withLora(), options, jsonl([masked, real, masked, masked]))
    expect(steps.map(({ tokens, loss }) => [tokens, loss > 0])).toEqual([
      [2, true],
      [0, false],
    ])
    await expect(train(await withLora(), jsonl([masked]), common)).rejects.toMatchObject({ code: "E_NO_LABELS" })
  })

  it("shuffles anew every epoch, and every row comes once in each", async () => {
    const rows = { ...data, rows: data.rows.slice(0, 8) }
    const losses = async (shuffle: boolean): Promise<[string[], string[]]> => {
      const options = { maxSteps: 16, batchSize: 1, learningRate: 0, shuffle }
      const all = (await metricsOf(await withLora(), options, rows)).map(({ loss }) => loss.toFixed(4))
      return [all.slice(0, 8), all.slice(8)]
    }
    const [kept, again] = await losses(false)
    const [first, second] = await losses(true)
    expect(again).toEqual(kept)
    expect([first.toSorted(), second.toSorted()]).toEqual([kept.toSorted(), kept.toSorted()])
    expect(new Set([kept, first, second].map(String)).size).toBe(3)
  })

  it("draws another dropout mask for every step, micro-batch and seed, and the same when run again", async () => {
    // B is zero at the start, so masks show in the gradient only.
    const rows = { ...data, rows: [data.rows[0], data.rows[0]] } as typeof data
    const norms = async (options: TrainOptions): Promise<number[]> => {
      const model = await withLora({ dropout: 0.5 })
      const all = await metricsOf(model, { maxSteps: 2, learningRate: 0, batchSize: 1, ...options }, rows)
      return all.map(({ grad_norm }) => grad_norm)
    }
    const one = await norms({})
    expect(await norms({})).toEqual(one)
    const others = [...(await norms({ seed: 4 })), ...(await norms({ gradientAccumulationSteps: 2 }))]
    expect(new Set([...one, ...others]).size).toBe(6)
  })

  it("stops at a loss that is not finite and changes nothing in that step", async () => {
    const model = await withLora()
    const { tensor: poisoned } = trainables(model)[0] as Trainable
    let before = new Map<string, Float32Array>()
    const options: TrainOptions = {
      ...common,
      onStep: async ({ step }) => {
        if (step !== 2) return
        noGrad(poisoned.engine, () => scope(poisoned.engine, () => assign(poisoned, poisoned.mul(Number.NaN))))
        before = await valuesOf(model)
      },
    }
    await expect(train(model, data, options)).rejects.toMatchObject({
      code: "E_LOSS_NOT_FINITE",
      message: expect.stringContaining("step 3"),
    })
    expect(await valuesOf(model)).toEqual(before)
  })

  it("stops when a learning rate is so high that the loss overflows", async () => {
    const model = await withLora()
    await expect(train(model, data, { ...common, learningRate: 1e25, maxGradNorm: 0 })).rejects.toMatchObject({
      code: "E_LOSS_NOT_FINITE",
    })
  })

  it.each([
    [{ maxSteps: 0 }, "E_OPTION"],
    [{ batchSize: 1.5 }, "E_OPTION"],
    [{ epochs: -1 }, "E_OPTION"],
    [{ lossMask: "prompt" }, "E_OPTION"],
    [{ promptLossWeight: 2 }, "E_OPTION"],
    [{ learningRate: -1 }, "E_OPTION"],
    [{ saveSteps: 2 }, "E_OPTION"],
    [{ resume: true }, "E_OPTION"],
    [{ scheduler: "cosinus" }, "E_SCHEDULE"],
  ])("refuses %o with %s", async (options, code) => {
    const { maxSteps: _, ...rest } = common
    await expect(train(await withLora(), data, { ...rest, ...(options as TrainOptions) })).rejects.toMatchObject({
      code,
    })
  })

  it("says when nothing is trainable", async () => {
    const model = await withLora()
    disable(model)
    await expect(train(model, data, common)).rejects.toMatchObject({ code: "E_NO_GRAD" })
  })

  it("evaluates on the way and at the end", async () => {
    const seen: number[] = []
    const evalData = { ...data, rows: data.rows.slice(0, 4) }
    const result = await train(await withLora(), data, {
      ...common,
      ...{ maxSteps: 5, evalData, evalSteps: 2, onEvaluate: (_, step) => void seen.push(step) },
    })
    expect(seen).toEqual([2, 4, 5])
    expect(result.evaluation?.tokens).toBeGreaterThan(0)
    expect(result).toMatchObject({ steps: 5, totalSteps: 5, interrupted: false, metrics: { step: 5 } })
  })
})

describe("on one backend", () => {
  it("two interleaved trainings give the same losses as apart", async () => {
    const backend = await cpu()
    const make = (seed: number): Promise<Model> => withLora({ backend, dropout: 0.1, seed })
    const [first, second] = [await make(1), await make(2)]
    const apart = [await metricsOf(first, { seed: 1 }), await metricsOf(second, { seed: 2 })]
    const together = await Promise.all([metricsOf(await make(1), { seed: 1 }), metricsOf(await make(2), { seed: 2 })])
    expect(together).toEqual(apart)
  })

  it.each([
    [{}, {}],
    [{ gradientAccumulationSteps: 2, gradientCheckpointing: true }, { dropout: 0.1 }],
  ])("live buffers at step 200 are those at step 10: %o", async (options, adapter) => {
    const backend = await cpu()
    const model = await withLora({ backend, ...adapter })
    const engine = engineOf(backend)
    const counts = new Map<number, number>()
    const before = engine.liveBuffers
    const rows = { ...data, rows: data.rows.slice(0, 8) }
    const onStep = ({ step }: StepMetrics): void => void counts.set(step, engine.liveBuffers)
    await train(model, rows, { ...common, ...options, maxSteps: 200, batchSize: 2, onStep })
    expect(counts.get(200)).toBe(counts.get(10))
    // The optimizer's tensors are given back at the end.
    expect(engine.liveBuffers).toBe(before)
  })
})

describe("gradients", () => {
  it("of what is not trained are let go", async () => {
    const backend = await cpu()
    const engine = engineOf(backend)
    const held = (): Tensor => noGrad(engine, () => scope(engine, () => hold(full(backend, [2], 3))))
    const [trained, other] = [held(), held()]
    const sums = sumGradients(engine, [{ name: "p", tensor: trained, decay: true }])
    const before = engine.liveBuffers
    sums.add(new Map([trained, other].map((parameter) => [parameter, held()])))
    sums.add(new Map([[trained, held()]]))
    expect(await sums.norm()).toBeCloseTo(Math.sqrt(72), 5)
    expect(sums.of(other)).toBeUndefined()
    sums.free()
    expect(engine.liveBuffers).toBe(before)
  })
})

describe("methods take part", () => {
  const method = (extra: Partial<AdapterMethod>): AdapterMethod => ({ ...lora({ r: 2 }), ...extra })
  const adapted = async (extra: Partial<AdapterMethod>): Promise<Model> =>
    adapt(await tinyLlama(), method(extra), { targetModules: ["q_proj"], seed: 1 })

  it("a penalty is added once per step, whatever the accumulation", async () => {
    const options = { maxSteps: 1, learningRate: 0, shuffle: false, batchSize: 1, gradientAccumulationSteps: 4 }
    const [plain] = await metricsOf(await adapted({}), options)
    const model = await adapted({ penalty: ({ A }) => (A as NonNullable<typeof A>).square().sum() })
    const [penalised] = await metricsOf(model, options)
    let squares = 0
    for (const [name, values] of await valuesOf(model))
      if (name.endsWith(".A")) squares += values.reduce((sum, x) => sum + x * x, 0)
    expect((penalised?.loss as number) - (plain?.loss as number)).toBeCloseTo(squares, 4)
    expect(penalised?.grad_norm).toBeGreaterThan(plain?.grad_norm as number)
  })

  it("afterStep sees the step's gradients and may set parameters", async () => {
    const calls: [number, number][] = []
    const afterStep = async ({ step, sites, set }: StepState): Promise<void> => {
      const norms: number[] = []
      for (const { gradients } of sites.values())
        for (const g of Object.values(gradients)) norms.push(...((await g.square().sum().data()) as Float32Array))
      calls.push([step, Math.sqrt(norms.reduce((a, b) => a + b, 0))])
      for (const { params } of sites.values()) {
        const b = params.B as NonNullable<typeof params.B>
        set(b, b.mul(0))
      }
    }
    const model = await adapted({ afterStep })
    const steps = await metricsOf(model, { maxSteps: 3, learningRate: 0 })
    expect(calls.map(([step]) => step)).toEqual([0, 1, 2])
    for (const [i, [, norm]] of calls.entries()) expect(norm).toBeCloseTo(steps[i]?.grad_norm as number, 4)
    for (const [name, values] of await valuesOf(model))
      if (name.endsWith(".B")) expect(values.every((x) => x === 0)).toBe(true)
  })

  it("only enabled adapters are trained", async () => {
    const model = adapt(await withLora(), lora({ r: 2 }), { targetModules: ["q_proj"], name: "second" })
    disable(model, "default")
    const before = await valuesOf(model)
    await metricsOf(model, { maxSteps: 2 })
    const after = await valuesOf(model)
    expect([...after.keys()].every((name) => name.startsWith("second:"))).toBe(true)
    expect([...after].some(([name, values]) => largestDifference(values, before.get(name) ?? []) > 0)).toBe(true)
  })
})
