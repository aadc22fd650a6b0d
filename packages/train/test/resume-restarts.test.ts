/** Runs with restarts that are stopped, killed, or lose their device, in any cycle, must end as one that never stopped. */
import { fakeBackend, toyModel } from "@peftjs/conformance"
import { adapt, type Backend, type Model, PeftError, unfreeze } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import type { MemoryFiles } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
// By its path: that package depends on this one.
import { mora } from "../../mora/src/index.ts"
import { jsonl, latestStep, type StepMetrics, type TrainOptions, type TrainResult, train } from "../src/index.ts"
import { store, valuesOf } from "./helpers.ts"

const rows = Array.from({ length: 10 }, (_, i) => {
  const ids = Array.from({ length: 5 }, (_, t) => (i * 7 + t * 3) % 37)
  return { input_ids: ids, labels: ids }
})
const data = jsonl(rows, "made up")
const options: TrainOptions = {
  ...{ maxSteps: 11, batchSize: 3, learningRate: 0.02, weightDecay: 0.1, seed: 3, warmupSteps: 1 },
  restart: { every: 3, warmup: 1, fullSteps: 2, optimizer: { reset: "random", ratio: 0.5 }, delay: 1 },
}
const later: TrainOptions = { ...options, restart: { every: 4, warmup: 1 } }

const make = (backend: Backend, method = lora({ r: 2, alpha: 4, dropout: 0.1 })): Model =>
  adapt(toyModel(backend), method, { targetModules: "all-linear", modulesToSave: ["norm"], seed: 1 })

interface Figures {
  readonly losses: readonly number[]
  readonly values: ReadonlyMap<string, Float32Array>
  readonly result: TrainResult
}

async function run(model: Model, how: TrainOptions): Promise<Figures> {
  const losses: number[] = []
  const onStep = ({ loss, step }: StepMetrics): void => {
    losses[step - 1] = loss
  }
  const result = await train(model, data, { ...how, onStep })
  return { losses, values: await valuesOf(result.model), result }
}

/** Goes on in a fresh program, and adds the losses of the steps before. */
async function resumed(
  checkpoints: MemoryFiles,
  how: TrainOptions,
  before: readonly number[] = [],
  method = lora({ r: 2, alpha: 4, dropout: 0.1 }),
): Promise<Figures> {
  const resume = (await latestStep(checkpoints)) !== undefined
  const { losses, ...rest } = await run(make(fakeBackend(), method), { ...how, checkpoints, resume })
  return { ...rest, losses: Array.from({ length: 11 }, (_, i) => losses[i] ?? (before[i] as number)) }
}

describe.each([
  ["with full training first, pruning and a late merge", options, () => lora({ r: 2, alpha: 4, dropout: 0.1 })],
  ["of MoRA, whose grouping moves on", later, () => mora({ r: 1, type: "strided-interleave", dropout: 0.1 })],
] as const)("a run %s", (_, how, method) => {
  it("stopped before or in any step goes on with the same losses", async () => {
    const whole = await run(make(fakeBackend(), method()), how)
    expect(whole.losses).toHaveLength(11)
    for (let stop = 1; stop < 11; stop++) {
      const checkpoints = store()
      const controller = new AbortController()
      const losses: number[] = []
      const first = await train(make(fakeBackend(), method()), data, {
        ...{ ...how, checkpoints, signal: controller.signal },
        onStep: ({ loss, step }) => {
          losses.push(loss)
          if (step === stop) controller.abort()
        },
      })
      expect(first).toMatchObject({ steps: stop, interrupted: true })
      const second = await resumed(checkpoints, how, losses, method())
      expect(second.losses, `stopped after step ${stop}`).toEqual(whole.losses)
      expect(second.values).toEqual(whole.values)
      expect(second.result.model.view.adapters[0]?.method.config).toEqual(
        whole.result.model.view.adapters[0]?.method.config,
      )
    }
  })

  it("stopped by the restart itself, after which no step is done, goes on as well", async () => {
    const whole = await run(make(fakeBackend(), method()), how)
    const checkpoints = store()
    const controller = new AbortController()
    const losses: number[] = []
    const first = await train(make(fakeBackend(), method()), data, {
      ...{ ...how, checkpoints, signal: controller.signal },
      onStep: ({ loss }) => void losses.push(loss),
      onRestart: ({ cycle }) => void (cycle === 1 && controller.abort()),
    })
    expect(first.steps).toBe(losses.length)
    expect([...checkpoints.files.keys()].some((path) => path.startsWith("base-1/"))).toBe(true)
    const second = await resumed(checkpoints, how, losses, method())
    expect(second.losses).toEqual(whole.losses)
    expect(second.values).toEqual(whole.values)
  })

  it("killed at any file goes on as well, and keeps no base that no checkpoint needs", async () => {
    const whole = await run(make(fakeBackend(), method()), how)
    let deaths = 0
    for (let write = 1; ; write++) {
      const checkpoints = store(write)
      const died = await run(make(fakeBackend(), method()), { ...how, checkpoints, saveSteps: 2 }).then(
        () => false,
        (error: Error) => error.message === "killed",
      )
      const second = await resumed(store(undefined, checkpoints), { ...how, saveSteps: 2 }, [], method())
      expect(second.values, `write ${write}`).toEqual(whole.values)
      if (!died) {
        const folders = new Set([...checkpoints.files.keys()].map((path) => path.split("/")[0]))
        expect([...folders].sort()).toEqual(["base-2", "latest.json", "step-10", "step-11"])
        break
      }
      deaths++
    }
    // Six checkpoints of three files, and one base for each cycle that has a checkpoint.
    expect(deaths).toBeGreaterThanOrEqual(18 + 2)
  })
})

it("where every layer is trained itself as well, and takes the merges up, no base is written", async () => {
  const both = (): Model => {
    const trained = unfreeze(toyModel(fakeBackend()), (path) => /proj|bias/.test(path))
    return adapt(trained, lora({ r: 2 }), { targetModules: ["up_proj", "down_proj"], seed: 1 })
  }
  const whole = await run(both(), later)
  const checkpoints = store()
  const controller = new AbortController()
  await train(both(), data, {
    ...{ ...later, checkpoints, signal: controller.signal },
    onStep: ({ step }) => void (step === 6 && controller.abort()),
  })
  expect([...checkpoints.files.keys()].filter((path) => path.startsWith("base"))).toEqual([])
  expect((await run(both(), { ...later, checkpoints, resume: true })).values).toEqual(whole.values)
})

it("continued in another folder, the base is written there too", async () => {
  const whole = await run(make(fakeBackend()), options)
  const older = store()
  await run(make(fakeBackend()), { ...options, checkpoints: older, saveSteps: 7 })
  // As far as step 7.
  const cut = store(undefined, older)
  ;(cut.files as Map<string, Uint8Array>).set("latest.json", new TextEncoder().encode('{"step":7,"base":"base-1"}'))
  const own = store()
  const layered: MemoryFiles = {
    ...own,
    has: async (path) => (await own.has(path)) || cut.has(path),
    open: async (path) => ((await own.has(path)) ? own : cut).open(path),
  }
  await run(make(fakeBackend()), { ...options, checkpoints: layered, saveSteps: 1, resume: true })
  expect([...own.files.keys()]).toContain("base-2/base.safetensors")
  expect((await resumed(own, options)).values).toEqual(whole.values)
})

it("refuses other restarts, and a base of another model", async () => {
  const checkpoints = store()
  await run(make(fakeBackend()), { ...options, checkpoints, saveSteps: 5 })
  const again = { ...options, checkpoints, resume: true }
  const other = { ...again, restart: { every: 3, fullSteps: 2 } }
  await expect(run(make(fakeBackend()), other)).rejects.toMatchObject({ code: "E_RESUME" })
  const { restart: _, ...none } = again
  await expect(run(make(fakeBackend()), none)).rejects.toMatchObject({
    message: expect.stringMatching(/restart was .*now nothing/),
  })
  ;(checkpoints.files as Map<string, Uint8Array>).delete("base-2/base.safetensors")
  await expect(run(make(fakeBackend()), again)).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND" })
})

describe("a device that vanishes", () => {
  /** The fake, whose kernels fail from the n-th call on. */
  function fragile(n: number): { backend: Backend; calls(): number } {
    const fake = fakeBackend({ deferred: true })
    let calls = 0
    let lose: (error: Error) => void = () => {}
    const lost = new Promise<Error>((resolve) => {
      lose = resolve
    })
    const kernels = Object.entries(fake.kernels).map(([name, kernel]) => [
      name,
      (...args: never[]) => {
        if (++calls >= n) {
          const error = new PeftError("E_DEVICE_LOST", "[fake] the device is gone; restart the program")
          lose(error)
          throw error
        }
        return (kernel as (...args: never[]) => unknown)(...args)
      },
    ])
    return {
      backend: { ...fake, lost, kernels: Object.fromEntries(kernels) as Backend["kernels"] },
      calls: () => calls,
    }
  }

  it("leaves the last copy with the base it belongs to, in any cycle", async () => {
    const whole = await run(make(fakeBackend()), options)
    const counting = fragile(Number.POSITIVE_INFINITY)
    const steps: number[] = []
    await train(make(counting.backend), data, { ...options, onStep: () => void steps.push(counting.calls()) })
    for (const [step, after] of steps.entries()) {
      if (step === 10) continue
      const checkpoints = store()
      const { backend } = fragile(after + 40)
      const end = run(make(backend), { ...options, checkpoints, snapshotSteps: 2 })
      await expect(end, `after step ${step + 1}`).rejects.toMatchObject({ code: "E_DEVICE_LOST" })
      const kept = await latestStep(checkpoints)
      if (step >= 3) expect(kept).toBeGreaterThanOrEqual(step - 2)
      expect((await resumed(checkpoints, options)).values, `after step ${step + 1}`).toEqual(whole.values)
    }
  })
})
