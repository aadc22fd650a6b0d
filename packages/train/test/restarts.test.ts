/** Merging and starting anew: what it keeps, what it starts again, what it refuses. */

import { cpu } from "@peftjs/backend-cpu"
import {
  type AdaptOptions,
  adapt,
  assign,
  bindModel,
  detach,
  detachOverlays,
  engineOf,
  full,
  type Model,
  type Site,
  scope,
  type Tensor,
  tensor,
  trainables,
  unfreeze,
  uploadDense,
  type Weight,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models"
import { fromFloat32, toFloat32 } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { describe, expect, it } from "vitest"
// By its path: that package depends on this one.
import { mora } from "../../mora/src/index.ts"
import { startCourse } from "../src/course.ts"
import { evaluate, type RestartOptions, type StepMetrics, type TrainOptions, train } from "../src/index.ts"
import { learningRateOf, settle } from "../src/options.ts"
import { prune, quantile } from "../src/reset.ts"
import { requireCycles, settleRestarts } from "../src/restarts.ts"
import { schedule } from "../src/schedules.ts"
import { fixture, largestDifference, readJson, recordedRows, tinyLlama, valuesOf } from "./helpers.ts"

const recorded = recordedRows()
const data = { ...recorded, rows: recorded.rows.slice(0, 24) }
const options: TrainOptions = { maxSteps: 9, batchSize: 2, learningRate: 0.02, seed: 3, maxGradNorm: 0 }
const restart: RestartOptions = { every: 3, warmup: 1 }
const targets: AdaptOptions = { targetModules: ["q_proj", "v_proj", "down_proj"], seed: 1 }

/** The model with its matrices in bf16. */
async function inBf16(model: Model): Promise<Model> {
  const params = new Map<string, Tensor | Weight>()
  for (const [path, value] of model.params) {
    const rows = "rows" in value ? value.rows({ start: 0, end: value.shape[0] }) : undefined
    const values = rows && fromFloat32("BF16", (await rows.data()) as Float32Array)
    params.set(path, values ? uploadDense(model.backend, values as Uint16Array, "bf16", value.shape) : value)
  }
  const sites = [...model.sites].map(([path, site]): [string, Site] => [
    path,
    { ...site, base: params.get(site.param) as Weight },
  ])
  return bindModel({ ...model.definition, params, sites: new Map(sites) })
}

async function rowsOf(weight: Weight): Promise<Float32Array> {
  return (await weight.rows({ start: 0, end: weight.shape[0] }).data()) as Float32Array
}

/** Trains, and says how far a loss is from what it was right before each restart. */
async function jumps(
  model: Model,
  more: TrainOptions = {},
): Promise<{ jumps: number[]; steps: StepMetrics[]; model: Model }> {
  const apart: number[] = []
  const steps: StepMetrics[] = []
  let before = Number.NaN
  const some = { maxSamples: 8 }
  const result = await train(model, data, {
    ...{ ...options, restart, ...more },
    onStep: async (metrics, view) => {
      steps.push(metrics)
      before = (await evaluate(view, data, some)).loss
    },
    onRestart: async (_, view) => {
      apart.push(Math.abs((await evaluate(view, data, some)).loss - before))
    },
  })
  return { jumps: apart, steps, model: result.model }
}

describe("a restart leaves what the model computes as it is", () => {
  it.each([
    ["lora", lora({ r: 4, dropout: 0.1 }), {}],
    ["dora", lora({ r: 4, dora: true }), {}],
    ["mora", mora({ r: 2, type: "contiguous-interleave" }), {}],
    ["rotation", mora({ r: 2 }), {}],
    [
      "with modules, tokens and checkpointing",
      lora({ r: 4 }),
      { modulesToSave: ["lm_head", "norm"], trainableTokenIndices: [3, 9] },
    ],
  ] as const)("%s", async (name, method, beside) => {
    const gradientCheckpointing = name.includes("checkpointing")
    const base = await tinyLlama()
    const found = await jumps(adapt(base, method, { ...targets, ...beside }), { gradientCheckpointing })
    expect(found.jumps).toHaveLength(2)
    expect(Math.max(...found.jumps)).toBeLessThan(2e-6)
    expect(found.steps.map((s) => s.learning_rate === 0)).toEqual([0, 0, 0, 1, 0, 0, 1, 0, 0].map(Boolean))
  })

  it("of GPT-2 with biases trained beside and by the method", async () => {
    const base = await loadCausalLM(nodeFiles(fixture("models/gpt2")), { backend: await cpu() })
    const model = adapt(base, lora({ r: 4, loraBias: true }), { targetModules: "all-linear", bias: "all", seed: 1 })
    const found = await jumps(model)
    expect(Math.max(...found.jumps)).toBeLessThan(5e-6)
    expect(found.jumps).toHaveLength(2)
  })

  it("of a tied embedding, whose head is parted from it", async () => {
    const base = await loadCausalLM(nodeFiles(fixture("models/llama-tied")), { backend: await cpu() })
    const model = adapt(base, lora({ r: 4 }), { targetModules: ["embed_tokens", "q_proj"], seed: 1 })
    for (const fullSteps of [0, 3]) {
      const found = await jumps(
        fullSteps === 0 ? model : adapt(base, lora({ r: 4 }), { targetModules: ["embed_tokens", "q_proj"] }),
        {
          restart: { ...restart, fullSteps },
        },
      )
      expect(found.jumps).toHaveLength(2)
      expect(Math.max(...found.jumps)).toBeLessThan(2e-6)
      expect(found.model.config.tie_word_embeddings).toBe(false)
      detachOverlays(detach(found.model))
    }
  })

  it("where the layers themselves are trained as well", async () => {
    const base = await tinyLlama()
    const some = unfreeze(base, (path) => /norm|q_proj/.test(path))
    const found = await jumps(adapt(some, lora({ r: 4 }), targets))
    expect(Math.max(...found.jumps)).toBeLessThan(2e-6)
    expect(trainables(found.model).some(({ name }) => name.endsWith("q_proj.weight"))).toBe(true)
  })
})

describe("the base", () => {
  it("as loaded is never changed, and merges into bf16 are kept in f32", async () => {
    const base = await inBf16(await tinyLlama())
    const path = "model.layers.0.self_attn.q_proj.weight"
    const before = await rowsOf(base.params.get(path) as Weight)
    const found = await jumps(adapt(base, lora({ r: 4 }), targets))
    expect(Math.max(...found.jumps)).toBeLessThan(2e-6)
    const after = found.model.view.overlays.get(path) as Weight
    expect([base.params.get(path), after].map((w) => (w as Weight).format)).toEqual(["bf16", "f32"])
    expect(await rowsOf(base.params.get(path) as Weight)).toEqual(before)
    const values = await rowsOf(after)
    // Most of what was merged is less than a bf16 can hold.
    const rounded = toFloat32("BF16", fromFloat32("BF16", values))
    expect(largestDifference(rounded, values)).toBeGreaterThan(1e-5)
    // Layers without an adapter stay as they are stored.
    expect(found.model.view.overlays.has("model.layers.0.mlp.up_proj.weight")).toBe(false)
  })

  it("takes no more memory with every restart, and gives all of it back", async () => {
    const base = await tinyLlama()
    const { liveBuffers: none } = engineOf(base.backend)
    const engine = engineOf(base.backend)
    const live: number[] = []
    const model = adapt(base, mora({ r: 2, type: "sharing" }), { ...targets, modulesToSave: ["norm"] })
    const result = await train(model, data, {
      ...{ ...options, maxSteps: 12, restart: { ...restart, optimizer: { reset: "magnitude" } } },
      onStep: ({ step }) => void (step % 3 === 0 && live.push(engine.liveBuffers)),
    })
    expect(new Set(live.slice(1)).size).toBe(1)
    detachOverlays(detach(result.model))
    expect(engine.liveBuffers).toBe(none)
  })
})

describe("full training first", () => {
  it("moves every parameter, then the adapters begin where it ended", async () => {
    const base = await tinyLlama()
    const model = adapt(base, lora({ r: 4, dora: true }), { ...targets, modulesToSave: ["model.norm"] })
    const trained: number[] = []
    const rates: number[] = []
    const { liveBuffers } = engineOf(base.backend)
    const result = await train(model, data, {
      ...{ ...options, maxSteps: 10, scheduler: "constant" },
      restart: { every: 3, warmup: 1, fullSteps: 4, fullLearningRate: 0.001 },
      onStep: (metrics, view) => {
        trained.push(trainables(view).length)
        rates.push(metrics.learning_rate)
      },
    })
    expect(rates).toEqual([0.001, 0.001, 0.001, 0.001, 0, 0.02, 0.02, 0, 0.02, 0.02])
    const own = 6 * 3 + 1
    expect(trained).toEqual([...Array(4).fill(base.params.size), ...Array(6).fill(own)])
    // DoRA's magnitudes were made of the weights that full training left, and so was the norm that is trained beside.
    const up = "model.layers.0.mlp.up_proj.weight"
    const moved = await rowsOf(result.model.view.overlays.get(up) as Weight)
    expect(largestDifference(moved, await rowsOf(base.params.get(up) as Weight))).toBeGreaterThan(1e-3)
    detachOverlays(detach(result.model))
    expect(engineOf(base.backend).liveBuffers).toBeLessThan(liveBuffers)
  })

  it("is as full fine-tuning alone", async () => {
    const losses = async (model: Model, more: TrainOptions): Promise<number[]> => {
      const found: number[] = []
      const onStep = (m: StepMetrics): void => void found.push(m.loss)
      await train(model, data, { ...options, scheduler: "constant", ...more, onStep })
      return found.slice(0, 4)
    }
    const alone = await losses(unfreeze(await tinyLlama()), { maxSteps: 4 })
    const first = await losses(adapt(await tinyLlama(), lora({ r: 4 }), targets), {
      restart: { ...restart, fullSteps: 4 },
    })
    expect(first).toEqual(alone)
  })
})

describe("the learning rate", () => {
  it("is ReLoRA's jagged cosine", () => {
    const { multipliers } = readJson("schedules/schedules.json").schedules.relora_jagged as { multipliers: number[] }
    const how = { warmupSteps: 10, learningRate: 1, maxSteps: 100 }
    const ours = learningRateOf(settle({ ...how, restart: { every: 25, warmup: 5 } }), 100)
    expect(
      largestDifference(
        multipliers.map((_, step) => ours(step)),
        multipliers,
      ),
    ).toBeLessThan(1e-12)
  })

  it("climbs back to any other schedule as well", () => {
    const how = { learningRate: 1, scheduler: "linear", restart: { every: 10, warmup: 4 } } as const
    const rate = learningRateOf(settle(how), 40)
    const linear = schedule("linear", { warmupSteps: 0, totalSteps: 40, learningRate: 1 })
    for (const step of [0, 3, 9, 14, 19, 24, 39]) expect(rate(step)).toBe(linear(step))
    expect([10, 11, 13].map(rate)).toEqual([0, 0.25 * linear(14), 0.75 * linear(14)])
    expect(() =>
      learningRateOf(settle({ ...how, scheduler: { name: "relora_jagged_cosine", restartEvery: 9 } }), 40),
    ).toThrow(/leave it out.*E_OPTION/)
  })
})

describe("the optimizer's averages", () => {
  const backend = cpu()
  const pruned = async (how: Parameters<typeof settleRestarts>[0]["optimizer"], seed = 0): Promise<number[][]> => {
    const device = await backend
    const slots = { m: tensor(device, [4, -3, 2, 1, 0], [5]), v: tensor(device, [1, 2, 3, 4, 5], [5]) }
    await prune(slots, settleRestarts({ every: 5, ...(how ? { optimizer: how } : {}) }).optimizer, {
      seed,
      cycle: 1,
      name: "A",
    })
    return Promise.all([slots.m, slots.v].map(async (t) => Array.from((await t.data()) as Float32Array)))
  }

  it("by magnitude keeps the largest, in all averages or in none", async () => {
    expect(await pruned({ reset: "magnitude", ratio: 0.4, together: false })).toEqual([
      [4, -3, 2, 0, 0],
      [0, 0, 3, 4, 5],
    ])
    expect(await pruned({ reset: "magnitude", ratio: 0.4 })).toEqual([
      [0, 0, 2, 0, 0],
      [0, 0, 3, 0, 0],
    ])
    expect(await pruned({ reset: "magnitude", ratio: 1 })).toEqual([Array(5).fill(0), Array(5).fill(0)])
    expect(quantile(Float32Array.of(4, 1, 3, 2), 0.5)).toBe(2.5)
  })

  it("at random keeps the same ones everywhere, others with another seed", async () => {
    const device = await backend
    const n = 4000
    const keep = async (seed: number, ratio: number): Promise<number[]> => {
      const slots = { m: tensor(device, Array(n).fill(1), [n]), v: tensor(device, Array(n).fill(2), [n]) }
      await prune(slots, settleRestarts({ every: 5, optimizer: { reset: "random", ratio } }).optimizer, {
        seed,
        cycle: 1,
        name: "A",
      })
      const [m, v] = (await Promise.all([slots.m.data(), slots.v.data()])) as [Float32Array, Float32Array]
      expect(v).toEqual(m.map((x) => 2 * x))
      return Array.from(m)
    }
    const share = (values: number[]): number => values.reduce((a, b) => a + b, 0) / n
    expect(share(await keep(1, 0.8))).toBeCloseTo(0.2, 1)
    expect(await keep(1, 0.8)).toEqual(await keep(1, 0.8))
    expect(await keep(2, 0.8)).not.toEqual(await keep(1, 0.8))
    expect(share(await keep(1, 1))).toBe(0)
  })

  it("right after a merge moves nothing far, as the published order would", async () => {
    const longest = async (together: boolean): Promise<number> => {
      let most = 0
      await train(adapt(await tinyLlama(), lora({ r: 4 }), targets), data, {
        ...{ ...options, learningRate: 1e-3, scheduler: "constant" },
        restart: { every: 3, warmup: 0, optimizer: { reset: "magnitude", ratio: 0.9, together } },
        onStep: async (_, model) => {
          for (const [name, values] of await valuesOf(model))
            if (name.endsWith(".A")) most = Math.max(most, largestDifference(values, new Float32Array(values.length)))
        },
      }).catch((error: { code: string }) => expect(error.code).toBe("E_LOSS_NOT_FINITE"))
      return most
    }
    expect(await longest(true)).toBeLessThan(0.2)
    expect(await longest(false)).toBeGreaterThan(2)
  })

  it("leaves what is trained beside alone, and counts the steps of what begins again from there", async () => {
    const model = adapt(await tinyLlama(), lora({ r: 4 }), { ...targets, modulesToSave: ["model.norm"] })
    const course = await startCourse(model, settle({ restart }))
    const [own, beside] = ["model.layers.0.self_attn.q_proj.A", "model.norm.weight"]
    const before = course.state.optimizer.get(beside)
    const m = course.state.optimizer.get(own)?.m as Tensor
    scope(m.engine, () => assign(m, full(m.engine.backend, m.shape, 1)))
    expect(await course.advance(2)).toBeUndefined()
    expect(await course.advance(3)).toMatchObject({ cycle: 1, step: 3, sites: 6 })
    expect(course.state.optimizer.get(beside)).toBe(before)
    expect(await course.state.optimizer.get(own)?.m?.data()).toEqual(new Float32Array(m.size))
    expect([own, beside].map((name) => course.state.begun.get(name))).toEqual([3, 0])
    course.free()
  })

  it("adapters start with other values every cycle", async () => {
    const starts: Float32Array[] = []
    const model = adapt(await tinyLlama(), lora({ r: 4 }), { ...targets, modulesToSave: ["model.norm"] })
    const name = "model.layers.0.self_attn.q_proj.A"
    starts.push((await valuesOf(model)).get(name) as Float32Array)
    await train(model, data, {
      ...{ ...options, restart },
      onRestart: async (_, view) => void starts.push((await valuesOf(view)).get(name) as Float32Array),
    })
    expect(starts).toHaveLength(3)
    for (const [i, a] of starts.entries())
      for (const b of starts.slice(i + 1)) expect(largestDifference(a, b)).toBeGreaterThan(0.05)
  })
})

describe("what is refused, before the first step", () => {
  const attempt = async (more: TrainOptions, make?: (base: Model) => Model): Promise<string> => {
    const base = await tinyLlama()
    const model = make ? make(base) : adapt(base, lora({ r: 4 }), targets)
    let steps = 0
    const run = train(model, data, { ...options, ...more, onStep: () => void steps++ })
    const message = await run.then(
      () => "no error",
      (error: Error) => error.message,
    )
    expect(steps).toBe(0)
    return message
  }
  it.each([
    [{ every: 0 }, /restart.every is 0.*at least 1/],
    [{ every: 3, warmup: 3 }, /restart.warmup is 3.*less than every, 3/],
    [{ every: 3, warmup: -1 }, /restart.warmup is -1/],
    [{ every: 9 }, /every 9 steps.*the run has 9, so that none would/],
    [{ every: 4, warmup: 1 }, /only 1 of 4 steps.*run 8 or 12 steps/],
    [{ every: 3, fullSteps: 6 }, /after 6 of full training.*none would/],
    [{ every: 3, optimizer: { reset: "magnitude", ratio: 0 } }, /ratio is 0.*above 0/],
    [{ every: 3, optimizer: { reset: "some" as "reset" } }, /"some".*reset, random, magnitude/],
  ] as [RestartOptions, RegExp][])("%o", async (given, message) => {
    expect(await attempt({ restart: given })).toMatch(message)
    expect(await attempt({ restart: given })).toContain("E_OPTION")
  })
  it("a model without adapters, a method that does not merge, a layer whose tokens are trained", async () => {
    expect(await attempt({ restart }, (base) => unfreeze(base))).toMatch(/the model has none.*E_OPTION/)
    const rigid = { ...lora({ r: 4 }), mergeable: false }
    expect(await attempt({ restart }, (base) => adapt(base, rigid, targets))).toContain("E_NOT_MERGEABLE")
    const both = { targetModules: ["embed_tokens", "q_proj"], trainableTokenIndices: [3] }
    expect(await attempt({ restart }, (base) => adapt(base, lora({ r: 4 }), both))).toMatch(/embed_tokens.*E_OPTION/)
    const random = (base: Model): Model => adapt(base, lora({ r: 4, init: false }), targets)
    expect(await attempt({ restart }, random)).toMatch(/lora does not leave a layer as it is.*E_OPTION/)
    expect(() => requireCycles(settleRestarts({ every: 4, warmup: 1 }), 12)).not.toThrow()
  })
})
