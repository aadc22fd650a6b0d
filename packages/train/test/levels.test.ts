/**
 * The same run on every level of the CPU backend, with any number of threads, and shared by replicas: the figures that PyTorch recorded, and
 * the same losses from the same seed.
 */
import { type CpuBackend, cpu, type NodeCpuOptions } from "@peftjs/backend-cpu/node"
import { adapt, type Communicator, type Model } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { initCausalLM } from "@peftjs/models"
import { describe, expect, it, vi } from "vitest"
import { adamw, type Data, jsonl, type StepMetrics, type TrainOptions, train } from "../src/index.ts"
import { communicators } from "./communicators.ts"
import { largestDifference, readJson, recordedRows, withAdapter } from "./helpers.ts"

vi.setConfig({ testTimeout: 120_000 })

type Level = Pick<NodeCpuOptions, "kernels" | "threads">

/** A BLAS that is named must be there; none on this machine is no failure. */
const blas = await cpu({ kernels: "blas" }).catch((error: Error) => {
  if (process.env.PEFT_BLAS && process.env.PEFT_BLAS !== "off") throw error
  return undefined
})
const levels: readonly (readonly [string, Level])[] = [
  ["reference", { kernels: "reference" }],
  ["wasm", { kernels: "wasm" }],
  ...(blas ? [1, 2, 4].map((threads) => [`blas, threads ${threads}`, { kernels: "blas", threads }] as const) : []),
]
it.skipIf(blas)("BLAS: NONE FOUND on this machine, so not tested; set PEFT_BLAS", () => {})

/** Losses and gradient norms of a run's first steps by so many replicas in this process, each with a backend of its own. */
async function run(
  size: number,
  steps: number,
  level: Level,
  make: (backend: CpuBackend) => Model | Promise<Model>,
  data: () => Data,
  options: () => TrainOptions,
): Promise<{ losses: number[]; norms: number[] }> {
  const one = async (communicator?: Communicator): Promise<StepMetrics[]> => {
    const done: StepMetrics[] = []
    const enough = new AbortController()
    await train(await make(await cpu(level)), data(), {
      ...options(),
      ...(communicator ? { communicator } : {}),
      signal: enough.signal,
      onStep(metrics) {
        if (done.push(metrics) === steps) enough.abort()
      },
    })
    return done
  }
  const all = await Promise.all(size === 1 ? [one()] : communicators(size).map(one))
  const losses = all.map((done) => done.map(({ loss }) => loss))
  for (const other of losses) expect(other).toEqual(losses[0])
  return { losses: losses[0] ?? [], norms: (all[0] ?? []).map(({ grad_norm }) => grad_norm) }
}

/** Numbers of replicas; of the reference, which is slow, fewer, and fewer steps. */
const sizesOf = ({ kernels }: Level): number[] => (kernels === "reference" ? [1, 2] : [1, 2, 4])
const stepsOf = ({ kernels }: Level): number => (kernels === "reference" ? 6 : 20)

describe.each(levels)("recorded runs, %s", (_, level) => {
  it.each(["lora-adamw-fast", "lora-checkpointing"])("%s, by several numbers of replicas", async (name) => {
    const { options, expected, tolerance } = readJson(`training/${name}/expected.json`)
    const { lr, weight_decay, betas, eps } = options.optimizer
    const steps = stepsOf(level)
    for (const size of sizesOf(level)) {
      const { losses, norms } = await run(
        size,
        steps,
        level,
        (backend) => withAdapter("training/lora-adamw/initial_adapter", backend),
        recordedRows,
        () => ({
          // Recorded as two batches of two rows a step; four at once have the same loss, and one for each replica.
          ...{ maxSteps: 20, batchSize: 4, shuffle: false, scheduler: options.schedule.name },
          ...{ warmupSteps: options.schedule.warmup_steps, maxGradNorm: options.max_grad_norm },
          gradientCheckpointing: options.gradient_checkpointing ?? false,
          optimizer: adamw({
            learningRate: lr,
            weightDecay: weight_decay,
            beta1: betas[0],
            beta2: betas[1],
            epsilon: eps,
          }),
        }),
      )
      expect(largestDifference(losses, expected.loss.slice(0, steps)), `${size}`).toBeLessThan(tolerance.loss_abs)
      expect(largestDifference(norms, expected.grad_norm.slice(0, steps)), `${size}`).toBeLessThan(
        tolerance.grad_norm_abs,
      )
    }
  })
})

describe("the same seed", () => {
  // Large enough for products that a BLAS shares among its threads.
  const config = {
    ...{ model_type: "llama", hidden_size: 128, intermediate_size: 256, num_hidden_layers: 1, vocab_size: 256 },
    ...{ num_attention_heads: 4, num_key_value_heads: 2, rms_norm_eps: 1e-5, rope_theta: 10_000, hidden_act: "silu" },
    ...{ tie_word_embeddings: true, max_position_embeddings: 64 },
  }
  const rows = Array.from({ length: 16 }, (_, row) => {
    const ids = Array.from({ length: 64 - (row % 3) }, (_, t) => ((row * 64 + t) * 7919) % 256)
    return { input_ids: ids, labels: ids }
  })
  const losses = async (size: number, level: Level): Promise<number[]> => {
    const method = lora({ r: 4, alpha: 8, dropout: 0.1 })
    const found = await run(
      size,
      3,
      level,
      (backend) => adapt(initCausalLM(config, { backend, seed: 7 }), method, { targetModules: "all-linear", seed: 1 }),
      () => jsonl(rows, "made up"),
      () => ({ maxSteps: 3, batchSize: 4, learningRate: 1e-2, seed: 3 }),
    )
    return found.losses
  }

  it("has the same losses on every level, with any number of threads and of replicas", async () => {
    const reference = await losses(1, { kernels: "reference" })
    expect(reference).toHaveLength(3)
    expect(new Set(reference).size).toBe(3)
    for (const [name, level] of levels)
      for (const size of sizesOf(level)) {
        const relative = (await losses(size, level)).map((loss, i) => loss / (reference[i] as number))
        expect(largestDifference(relative, [1, 1, 1]), `${name}, ${size} replicas`).toBeLessThan(1e-5)
      }
  })
})
