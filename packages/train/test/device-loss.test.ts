/** A device that vanishes, at any call: the run ends with its error and a checkpoint, and continues from there bit-equal. */
import { fakeBackend, toyModel } from "@peftjs/conformance"
import { adapt, type Backend, type Model, PeftError } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { memoryFiles } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { type CheckpointStore, jsonl, latestStep, type TrainOptions, train } from "../src/index.ts"
import { valuesOf } from "./helpers.ts"

const rows = Array.from({ length: 10 }, (_, i) => {
  const ids = Array.from({ length: 5 }, (_, t) => (i * 7 + t * 3) % 37)
  return { input_ids: ids, labels: ids }
})
const data = jsonl(rows, "made up")
const options: TrainOptions = { maxSteps: 8, batchSize: 3, learningRate: 0.02, weightDecay: 0.1, seed: 3 }

interface Fragile {
  readonly backend: Backend
  /** Calls so far. */
  calls(): number
}

/** The fake, whose calls fail from the n-th on as those of a lost device do. */
function fragile(n: number, code = "E_DEVICE_LOST"): Fragile {
  const fake = fakeBackend({ deferred: true })
  let calls = 0
  let lose: (error: Error) => void = () => {}
  const lost = new Promise<Error>((resolve) => {
    lose = resolve
  })
  const count = (): void => {
    if (++calls < n) return
    const error = new PeftError(code, "[fake] the device is gone; restart the program")
    if (code === "E_DEVICE_LOST") lose(error)
    throw error
  }
  const kernels = Object.entries(fake.kernels).map(([name, kernel]) => [
    name,
    (...args: never[]) => {
      count()
      return (kernel as (...args: never[]) => unknown)(...args)
    },
  ])
  const backend: Backend = {
    ...fake,
    lost,
    upload(values, dtype) {
      count()
      return fake.upload(values, dtype)
    },
    async read(buffer) {
      count()
      return fake.read(buffer)
    },
    async flush() {
      count()
      await fake.flush()
    },
    kernels: Object.fromEntries(kernels) as Backend["kernels"],
  }
  return { backend, calls: () => calls }
}

const adapted = (backend: Backend): Model =>
  adapt(toyModel(backend), lora({ r: 2, alpha: 4, dropout: 0.1 }), { targetModules: "all-linear", seed: 1 })

const finished = async (more: TrainOptions = {}): Promise<Map<string, Float32Array>> => {
  const model = adapted(fakeBackend())
  await train(model, data, { ...options, ...more })
  return valuesOf(model)
}

/** The calls before the first step, and after each. */
async function measured(more: TrainOptions = {}): Promise<{ start: number; steps: number[] }> {
  const idle = fragile(Number.POSITIVE_INFINITY)
  await train(adapted(idle.backend), data, { ...options, signal: AbortSignal.abort() })
  const { backend, calls } = fragile(Number.POSITIVE_INFINITY)
  const steps: number[] = []
  await train(adapted(backend), data, { ...options, ...more, onStep: () => void steps.push(calls()) })
  return { start: idle.calls(), steps }
}

async function failure(run: Promise<unknown>): Promise<{ code: string; message: string }> {
  return run.then(
    () => ({ code: "none", message: "no error" }),
    (error: PeftError) => error,
  )
}

describe("a lost device", () => {
  it("leaves the last copy as a checkpoint, from which the run continues bit-equal", async () => {
    const expected = await finished()
    const { start, steps } = await measured({ checkpoints: memoryFiles(), snapshotSteps: 2 })
    const ends = steps.at(-1) as number
    const kept = new Set<number | undefined>()
    // Every seventh call: uploads, kernels of both passes, the optimizer's, reads, and those of the copies.
    for (let n = start + 1; n < ends; n += 7) {
      const checkpoints = memoryFiles()
      const model = adapted(fragile(n).backend)
      const done: number[] = []
      const how = {
        ...options,
        checkpoints,
        snapshotSteps: 2,
        onStep: ({ step }: { step: number }) => void done.push(step),
      }
      const { code, message } = await failure(train(model, data, how))
      expect(code).toBe("E_DEVICE_LOST")
      expect(message).toContain(`training stops after step ${done.length}; `)
      const step = await latestStep(checkpoints)
      kept.add(step)
      // A copy that was not finished does not replace the one before.
      expect([done.length, done.length - 1, done.length - 2]).toContain(step ?? 0)
      if (step === undefined) {
        expect(message).toContain("there is no checkpoint, so start again (E_DEVICE_LOST)")
        continue
      }
      expect(message).toContain(`the checkpoint of step ${step} is kept: continue with --resume`)
      const second = adapted(fakeBackend())
      await train(second, data, { ...options, checkpoints, resume: true })
      expect(await valuesOf(second), `call ${n}`).toEqual(expected)
    }
    expect([...kept]).toEqual([undefined, 2, 4, 6])
  }, 120_000)

  it("where checkpoints are written, the later of copy and checkpoint is kept", async () => {
    const more = { snapshotSteps: 2, saveSteps: 5 }
    const { steps } = await measured({ ...more, checkpoints: memoryFiles() })
    const keptAfter = async (step: number): Promise<number | undefined> => {
      const checkpoints = memoryFiles()
      const lostAt = (steps[step - 1] as number) + 20
      const { code } = await failure(
        train(adapted(fragile(lostAt).backend), data, { ...options, ...more, checkpoints }),
      )
      expect(code).toBe("E_DEVICE_LOST")
      return latestStep(checkpoints)
    }
    const kept = await Promise.all([1, 3, 5, 7].map(keptAfter))
    expect(kept).toEqual([undefined, 2, 5, 6])
  })

  it("that fails while a run is resumed or before it starts, says no more than that", async () => {
    const checkpoints = memoryFiles()
    await train(adapted(fakeBackend()), data, { ...options, maxSteps: 8, checkpoints, saveSteps: 8 })
    const { start } = await measured()
    const run = train(adapted(fragile(start + 2).backend), data, { ...options, checkpoints, resume: true })
    const { message } = await failure(run)
    expect(message).toBe("[fake] the device is gone; restart the program (E_DEVICE_LOST)")
  })

  it("without memory, or refusing a command, leaves the copy too: its own values may be half updated", async () => {
    const { steps } = await measured({ checkpoints: memoryFiles(), snapshotSteps: 2 })
    for (const code of ["E_OUT_OF_MEMORY", "E_KERNEL"]) {
      const checkpoints = memoryFiles()
      const model = adapted(fragile(steps[4] as number, code).backend)
      const result = await failure(train(model, data, { ...options, checkpoints, snapshotSteps: 2 }))
      expect(result.code).toBe(code)
      expect(result.message).toContain("step 4 is kept")
      expect(await latestStep(checkpoints)).toBe(4)
    }
  })

  it("and a disk that refuses the checkpoint: both are told", async () => {
    const { steps } = await measured({ checkpoints: memoryFiles(), snapshotSteps: 2 })
    const checkpoints: CheckpointStore = {
      ...memoryFiles(),
      write: async () => {
        throw new PeftError("E_WRITE", "[disk] full")
      },
    }
    const model = adapted(fragile(steps[4] as number).backend)
    const { code, message } = await failure(train(model, data, { ...options, checkpoints, snapshotSteps: 2 }))
    expect(code).toBe("E_DEVICE_LOST")
    expect(message).toMatch(/that of step 4 could not be written: \[disk\] full \(E_WRITE\); there is no checkpoint/)
  })
})

describe("copies cost nothing", () => {
  const reads = async (backend: Backend, more: TrainOptions): Promise<number> => {
    let count = 0
    const counting: Backend = {
      ...backend,
      read(buffer) {
        count++
        return backend.read(buffer)
      },
    }
    await train(adapted(counting), data, { ...options, ...more })
    return count
  }

  it("on a device that cannot be lost, without checkpoints, or switched off", async () => {
    const losable = (): Backend => ({ ...fakeBackend(), lost: new Promise(() => {}) })
    const plain = await reads(fakeBackend(), { checkpoints: memoryFiles(), snapshotSteps: 1 })
    expect(await reads(losable(), { snapshotSteps: 1 })).toBe(plain)
    expect(await reads(losable(), { checkpoints: memoryFiles(), snapshotSteps: 0 })).toBe(plain)
    expect(await reads(losable(), { checkpoints: memoryFiles() })).toBe(plain)
    expect(await reads(losable(), { checkpoints: memoryFiles(), snapshotSteps: 4 })).toBeGreaterThan(plain)
  })
})
