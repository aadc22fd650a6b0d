/** Runs that are stopped, killed and continued must end bit-equal to one that never stopped. */
import { adapt, assign, type Model } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import type { MemoryFiles } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { type Data, latestStep, type Optimizer, sgd, type TrainOptions, type TrainResult, train } from "../src/index.ts"
import { recordedRows, store, tinyLlama, valuesOf } from "./helpers.ts"

// 8 rows in micro-batches of 2, groups of 3: epochs of 2 steps, the last one with a single micro-batch.
const recorded = recordedRows()
const data: Data = { ...recorded, rows: recorded.rows.slice(0, 8) }
const options: TrainOptions = {
  ...{ maxSteps: 5, batchSize: 2, gradientAccumulationSteps: 3, learningRate: 0.02, weightDecay: 0.1 },
  ...{ scheduler: "cosine", warmupSteps: 2, seed: 5 },
}
const microBatches = 3 + 1 + 3 + 1 + 3

const base = await tinyLlama()
const withDropout = (dropout: number): Model =>
  adapt(base, lora({ r: 4, alpha: 8, dropout, dora: true }), {
    targetModules: ["q_proj", "v_proj", "down_proj"],
    modulesToSave: ["model.norm"],
    trainableTokenIndices: [3, 17],
    seed: 9,
  })
const fresh = async (): Promise<Model> => withDropout(0.2)

/** Aborts while the n-th micro-batch runs. */
function abortingAt(model: Model, n: number): { model: Model; signal: AbortSignal } {
  const controller = new AbortController()
  let count = 0
  const losses: Model["losses"] = (...args) => {
    if (++count === n) controller.abort()
    return model.losses(...args)
  }
  return { model: { ...model, losses }, signal: controller.signal }
}

async function resumed(
  checkpoints: MemoryFiles,
  more: TrainOptions = {},
): Promise<{ model: Model; result: TrainResult }> {
  const model = await fresh()
  const resume = (await latestStep(checkpoints)) !== undefined
  return { model, result: await train(model, data, { ...options, ...more, checkpoints, resume }) }
}

const uninterrupted = async (): Promise<Map<string, Float32Array>> => {
  const model = await fresh()
  await train(model, data, options)
  return valuesOf(model)
}

describe("stopped by a signal", () => {
  it("in any micro-batch, the run continues bit-equal", async () => {
    const expected = await uninterrupted()
    for (let n = 1; n <= microBatches; n++) {
      const checkpoints = store()
      const { model, signal } = abortingAt(await fresh(), n)
      const first = await train(model, data, { ...options, checkpoints, signal })
      expect(first.interrupted).toBe(n < microBatches)
      if (!first.interrupted) continue
      expect(await latestStep(checkpoints)).toBe(first.steps)
      const { model: second, result } = await resumed(checkpoints)
      expect(result).toMatchObject({ steps: 5, interrupted: false })
      expect(await valuesOf(second)).toEqual(expected)
    }
  })

  it("keeps the momentum of SGD too", async () => {
    const how = { optimizer: sgd({ learningRate: 0.05, momentum: 0.9 }) }
    const { learningRate: _, weightDecay: __, ...rest } = options
    const plain = await fresh()
    await train(plain, data, { ...rest, ...how })
    const checkpoints = store()
    const { model, signal } = abortingAt(await fresh(), 6)
    await train(model, data, { ...rest, ...how, checkpoints, signal })
    const second = await fresh()
    await train(second, data, { ...rest, ...how, checkpoints, resume: true })
    expect(await valuesOf(second)).toEqual(await valuesOf(plain))
  })

  it("before anything ran, writes a checkpoint of the start", async () => {
    const checkpoints = store()
    const result = await train(await fresh(), data, { ...options, checkpoints, signal: AbortSignal.abort() })
    expect(result).toMatchObject({ steps: 0, interrupted: true })
    expect(await latestStep(checkpoints)).toBe(0)
  })
})

describe("killed while a checkpoint is written", () => {
  it("at any file, the one before is whole and the run continues bit-equal", async () => {
    const expected = await uninterrupted()
    let deaths = 0
    for (let write = 1; write <= 10; write++) {
      const checkpoints = store(write)
      const run = train(await fresh(), data, { ...options, checkpoints, saveSteps: 2 })
      const died = await run.then(
        () => false,
        () => true,
      )
      if (died) deaths++
      const { model } = await resumed(store(undefined, checkpoints))
      expect(await valuesOf(model), `write ${write}`).toEqual(expected)
    }
    // Three checkpoints of three files each: after steps 2, 4 and 5.
    expect(deaths).toBe(9)
  })

  it("twice in a row, at a step that had been reached before", async () => {
    const first = store(6)
    await expect(train(await fresh(), data, { ...options, checkpoints: first, saveSteps: 2 })).rejects.toThrow("killed")
    const second = store(2, first)
    await expect(resumed(second, { saveSteps: 2 })).rejects.toThrow("killed")
    const { model } = await resumed(store(undefined, second), { saveSteps: 2 })
    expect(await valuesOf(model)).toEqual(await uninterrupted())
  })
})

describe("checkpoints", () => {
  const files = ["state.safetensors", "trainer_state.json"]

  it("the last two are kept, and the adapter can be saved with each", async () => {
    const checkpoints = store()
    const saved: number[] = []
    await train(await fresh(), data, { ...options, checkpoints, saveSteps: 2, onSave: (step) => void saved.push(step) })
    expect(saved).toEqual([2, 4, 5])
    const kept = [4, 5].flatMap((step) => files.map((file) => `step-${step}/${file}`))
    expect([...checkpoints.files.keys()].sort()).toEqual(["latest.json", ...kept])
    const state = JSON.parse(new TextDecoder().decode(checkpoints.files.get("step-5/trainer_state.json")))
    expect(state).toMatchObject({ step: 5, epoch: 2, step_in_epoch: 1, run: { batchSize: 2, seed: 5, steps: 5 } })
  })

  it("a finished run that is continued does nothing", async () => {
    const checkpoints = store()
    await train(await fresh(), data, { ...options, checkpoints, saveSteps: 5 })
    const { model, result } = await resumed(checkpoints)
    expect(result).toEqual({ model, steps: 5, totalSteps: 5, interrupted: false })
    expect(await valuesOf(model)).toEqual(await uninterrupted())
  })

  it("refuses to continue another run, naming every difference", async () => {
    const checkpoints = store()
    await train(await fresh(), data, { ...options, maxSteps: 2, checkpoints, saveSteps: 2 })
    const again = { ...options, maxSteps: 2, checkpoints, resume: true }
    const attempt = async (more: TrainOptions, model = fresh(), rows: Data = data): Promise<string> => {
      const target = await model
      const before = await valuesOf(target)
      const message = await train(target, rows, { ...again, ...more }).then(
        () => "no error",
        (error: Error) => error.message,
      )
      expect(await valuesOf(target)).toEqual(before)
      return message
    }
    expect(await attempt({ learningRate: 1, seed: 6 })).toMatch(/seed was 5, now 6.*E_RESUME/)
    expect(await attempt({ learningRate: 1, seed: 6 })).toMatch(
      /optimizer was .*"learningRate":0.02.* now .*"learningRate":1/,
    )
    expect(await attempt({ maxSteps: 3 })).toMatch(/steps was 2, now 3/)
    expect(await attempt({}, fresh(), recorded)).toMatch(/data was .*"rows":8/)
    expect(await attempt({}, Promise.resolve(withDropout(0.1)))).toMatch(/method was .*"dropout":0.2/)
    await train(await fresh(), data, { ...again, gradientAccumulationSteps: 3 })
  })

  it("says that there is none, that its files are damaged, and that a parameter does not fit", async () => {
    const again = async (checkpoints: MemoryFiles): Promise<unknown> =>
      train(await fresh(), data, { ...options, checkpoints, resume: true })
    await expect(again(store())).rejects.toMatchObject({ code: "E_RESUME" })
    const checkpoints = store()
    await train(await fresh(), data, { ...options, checkpoints, saveSteps: 5 })
    const damage = (path: string, content: Uint8Array): MemoryFiles => {
      const copy = store(undefined, checkpoints)
      ;(copy.files as Map<string, Uint8Array>).set(path, content)
      return copy
    }
    const state = checkpoints.files.get("step-5/state.safetensors") as Uint8Array
    await expect(again(damage("latest.json", new Uint8Array(2)))).rejects.toMatchObject({ code: "E_RESUME" })
    await expect(again(damage("step-5/trainer_state.json", new Uint8Array()))).rejects.toMatchObject({
      code: "E_RESUME",
    })
    await expect(again(damage("step-5/state.safetensors", state.subarray(0, -4)))).rejects.toMatchObject({
      code: "E_SAFETENSORS_SIZE",
    })
    const renamed = state.map((byte, i) => (i > 8 && i < 2000 && byte === 0x71 ? 0x72 : byte))
    await expect(again(damage("step-5/state.safetensors", renamed))).rejects.toMatchObject({ code: "E_RESUME" })
  })

  it("values that are not finite are never saved", async () => {
    const checkpoints = store()
    const optimizer: Optimizer = {
      ...{ name: "bursting", learningRate: 1, config: {}, slots: [] },
      update: (p, _, __, { count }) => assign(p, p.mul(count === 2 ? Number.POSITIVE_INFINITY : 1)),
    }
    const run = train(await fresh(), data, { maxSteps: 3, batchSize: 2, optimizer, checkpoints, saveSteps: 1 })
    await expect(run).rejects.toMatchObject({
      code: "E_LOSS_NOT_FINITE",
      message: expect.stringContaining("not saved"),
    })
    expect(await latestStep(checkpoints)).toBe(1)
    expect([...checkpoints.files.keys()].sort()).toEqual(["latest.json", ...files.map((file) => `step-1/${file}`)])
  })
})
