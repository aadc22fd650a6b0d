/** Replicas that share the rows of every step must end as one program that has them all. */
import { fakeBackend, toyModel } from "@peftjs/conformance"
import { type AdapterMethod, adapt, type Communicator, type Model, parameters, trainables } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { type MemoryFiles, memoryFiles } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { evaluate, jsonl, type StepMetrics, type TrainOptions, type TrainResult, train } from "../src/index.ts"
import { communicators } from "./communicators.ts"
import { valuesOf } from "./helpers.ts"

// Rows of different lengths, of which some have nothing to learn; one row more than the replicas divide.
const rows = Array.from({ length: 11 }, (_, i) => {
  const ids = Array.from({ length: 3 + (i % 4) }, (_, t) => (i * 7 + t * 3) % 37)
  return { input_ids: ids, labels: ids.map((id, t) => (i % 5 === 2 || t < i % 3 ? -100 : id)) }
})
const data = jsonl(rows, "made up")
const options: TrainOptions = {
  ...{ maxSteps: 5, batchSize: 3, gradientAccumulationSteps: 2, learningRate: 0.02, weightDecay: 0.1, seed: 3 },
}

/** LoRA with a penalty on B, so that it must be counted once. */
const penalised: AdapterMethod = {
  ...lora({ r: 2, alpha: 4 }),
  penalty: ({ B }) => (B as NonNullable<typeof B>).square().sum().mul(0.1),
}

const methods = {
  "LoRA with dropout": lora({ r: 2, alpha: 4, dropout: 0.3 }),
  "a method with a penalty": penalised,
}
const make = (method: AdapterMethod): Model =>
  adapt(toyModel(fakeBackend()), method, { targetModules: "all-linear", modulesToSave: ["norm"], seed: 1 })

interface Outcome {
  readonly losses: readonly number[]
  readonly norms: readonly number[]
  readonly tokens: readonly number[]
  readonly values: ReadonlyMap<string, Float32Array>
  readonly result: TrainResult
}

async function run(method: AdapterMethod, more: TrainOptions = {}): Promise<Outcome> {
  const seen: StepMetrics[] = []
  const result = await train(make(method), data, {
    ...{ ...options, ...more },
    async onStep(metrics, model) {
      seen.push(metrics)
      await more.onStep?.(metrics, model)
    },
  })
  return {
    losses: seen.map(({ loss }) => loss),
    norms: seen.map(({ grad_norm }) => grad_norm),
    tokens: seen.map(({ tokens }) => tokens),
    values: await valuesOf(result.model),
    result,
  }
}

const together = (
  size: number,
  method: AdapterMethod,
  more: (communicator: Communicator) => TrainOptions = () => ({}),
): Promise<Outcome[]> =>
  Promise.all(communicators(size).map((communicator) => run(method, { communicator, ...more(communicator) })))

const apart = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number)) / Math.max(1e-6, Math.abs(x))))

describe.each(Object.entries(methods))("%s", (_, method) => {
  it.each([2, 3, 5])("%i replicas have the losses of one program, and all the same values", async (size) => {
    const one = await run(method)
    const all = await together(size, method)
    for (const { losses, norms, tokens, values } of all) {
      expect(apart(one.losses, losses)).toBeLessThan(1e-5)
      expect(apart(one.norms, norms)).toBeLessThan(1e-4)
      expect(tokens).toEqual(one.tokens)
      for (const [name, own] of values) expect(own).toEqual(all[0]?.values.get(name))
    }
    for (const [name, own] of one.values)
      for (const [i, x] of own.entries())
        expect(Math.abs(x - (all[0]?.values.get(name)?.[i] ?? Number.NaN))).toBeLessThan(1e-4)
  })
})

it("adds up as many bytes of gradients as there are trainable values, and a few numbers", async () => {
  const calls: { rank: number; bytes: number }[] = []
  const model = make(lora({ r: 2 }))
  const trained = trainables(model).reduce((n, { tensor }) => n + 4 * tensor.size, 0)
  const [first, second] = communicators(2, calls) as [Communicator, Communicator]
  await Promise.all([
    train(model, data, { ...options, maxSteps: 1, communicator: first }),
    train(make(lora({ r: 2 })), data, { ...options, maxSteps: 1, communicator: second }),
  ])
  const sizes = calls.filter(({ rank }) => rank === 0).map(({ bytes }) => bytes)
  expect(sizes.filter((bytes) => bytes === trained)).toHaveLength(1)
  expect(sizes.reduce((a, b) => a + b, 0) - trained).toBeLessThan(8 * (parameters(model).length + 8))
})

it("begins with the values of rank 0, whatever the others have", async () => {
  const seeds = [1, 2]
  const all = await Promise.all(
    communicators(2).map(async (communicator, i) => {
      const model = adapt(toyModel(fakeBackend()), lora({ r: 2 }), {
        targetModules: "all-linear",
        seed: seeds[i] as number,
      })
      await train(model, data, { ...options, communicator })
      return valuesOf(model)
    }),
  )
  expect(all[1]).toEqual(all[0])
})

it("only rank 0 writes, and all continue from what it wrote", async () => {
  const whole = await together(2, methods["LoRA with dropout"])
  const files = memoryFiles()
  const written = new Set<number>()
  const noting = (rank: number): MemoryFiles => ({
    ...files,
    write: (path, chunks) => {
      written.add(rank)
      return files.write(path, chunks)
    },
  })
  const stop = new AbortController()
  const stopped = await together(2, methods["LoRA with dropout"], ({ rank }) => ({
    checkpoints: noting(rank),
    // One of them is asked to stop; they agree on when.
    ...(rank === 1 ? { signal: stop.signal } : {}),
    onStep({ step }) {
      if (rank === 1 && step === 2) stop.abort()
    },
  }))
  expect(stopped.map(({ result }) => [result.interrupted, result.steps])).toEqual([
    [true, 2],
    [true, 2],
  ])
  expect([...written]).toEqual([0])
  const rest = await together(2, methods["LoRA with dropout"], ({ rank }) => ({
    checkpoints: noting(rank),
    resume: true,
  }))
  expect(rest[0]?.values).toEqual(whole[0]?.values)
  expect(rest[1]?.values).toEqual(whole[0]?.values)
})

it("a loss that is not finite in one replica stops all of them, with nothing changed", async () => {
  const broken: AdapterMethod = {
    ...lora({ r: 2, alpha: 4 }),
    forward: (x, next, params, context) => {
      const y = lora({ r: 2, alpha: 4 }).forward(x, next, params, context)
      return (x.shape[0] as number) === 2 ? y.mul(Number.NaN) : y
    },
  }
  const ends = await Promise.allSettled(communicators(2).map((communicator) => run(broken, { communicator })))
  expect(ends.map((end) => end.status === "rejected" && end.reason.code)).toEqual([
    "E_LOSS_NOT_FINITE",
    "E_LOSS_NOT_FINITE",
  ])
})

it("replicas share the rows of an evaluation", async () => {
  const model = make(lora({ r: 2 }))
  const one = await evaluate(model, data, { batchSize: 2 })
  const all = await Promise.all(
    communicators(3).map((communicator) => evaluate(model, data, { batchSize: 2, communicator })),
  )
  for (const found of all) {
    expect(found.tokens).toBe(one.tokens)
    expect(found.loss).toBeCloseTo(one.loss, 5)
  }
})
