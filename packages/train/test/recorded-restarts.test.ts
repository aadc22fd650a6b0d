/** Runs with merges and restarts as PyTorch recorded them: every step, and the base at the end. */
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import type { AdapterMethod, Model, Weight } from "@peftjs/core"
import { adapt, engineOf, loadAdapter, noGrad } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models"
import { parseSafetensors } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { describe, expect, it } from "vitest"
// By its path: that package depends on this one.
import { mora } from "../../mora/src/index.ts"
import {
  adamw,
  type Data,
  jsonl,
  type RestartOptions,
  type StepMetrics,
  type TrainResult,
  train,
} from "../src/index.ts"
import { fixture as common, largestDifference } from "./helpers.ts"

const inHere = (path: string): string => fileURLToPath(new URL(`fixtures/${path}`, import.meta.url))
const inMora = (path: string): string => fileURLToPath(new URL(`../../mora/test/fixtures/${path}`, import.meta.url))
const read = (path: string): ReturnType<typeof parseSafetensors>["tensors"] =>
  parseSafetensors(readFileSync(path)).tensors

interface Recorded {
  readonly expected: Readonly<Record<"loss" | "grad_norm" | "lr", readonly number[]>>
  readonly options: { readonly optimizer: { readonly eps: number } }
  readonly merged_after_steps: readonly number[]
  readonly final_base_weights: Readonly<Record<string, Readonly<Record<string, number>>>>
  readonly tolerance: Readonly<Record<"loss_abs" | "grad_norm_abs" | "base_weights_abs" | "logits_abs", number>>
}

function rowsOf(folder: string): Data {
  const tensors = read(`${folder}/batches.safetensors`)
  const cut = (name: string, row: number): number[] =>
    Array.from(tensors.get(name)?.data ?? [], Number).slice(row * 12, row * 12 + 12)
  const rows = Array.from({ length: 30 }, (_, row) => ({
    input_ids: cut("input_ids", row),
    attention_mask: cut("attention_mask", row),
    labels: cut("labels", row),
  }))
  return jsonl(rows, "recorded")
}

/** The recorded run, and where we are from it. */
async function compare(folder: string, model: Model, restart: Partial<RestartOptions>): Promise<TrainResult> {
  const recorded = JSON.parse(readFileSync(`${folder}/expected.json`, "utf8")) as Recorded
  const { expected, tolerance, options } = recorded
  const steps: StepMetrics[] = []
  const merged: number[] = []
  const result = await train(model, rowsOf(folder), {
    ...{ maxSteps: 15, batchSize: 2, shuffle: false, warmupSteps: 2 },
    optimizer: adamw({ learningRate: 5e-3, weightDecay: 0.01, epsilon: options.optimizer.eps }),
    restart: { every: 5, warmup: 2, ...restart },
    onStep: (metrics) => void steps.push(metrics),
    onRestart: ({ step, sites, maxError }) => {
      merged.push(step)
      expect([sites, maxError < 1e-5]).toEqual([6, true])
    },
  })
  const far = (key: keyof StepMetrics, wanted: readonly number[]): number =>
    largestDifference(
      steps.map((s) => s[key] as number),
      wanted,
    )
  expect(merged).toEqual(recorded.merged_after_steps)
  expect(far("learning_rate", expected.lr)).toBeLessThan(1e-12)
  expect(far("loss", expected.loss)).toBeLessThan(tolerance.loss_abs)
  expect(far("grad_norm", expected.grad_norm)).toBeLessThan(tolerance.grad_norm_abs)
  const most = tolerance.base_weights_abs
  for (const [path, { sum, abs_sum, l2, first, last }] of Object.entries(recorded.final_base_weights)) {
    const values = await matrix(result.model, path)
    const total = (f: (x: number) => number): number => values.reduce((all, x) => all + f(x), 0)
    const figures = [total((x) => x), total(Math.abs), Math.sqrt(total((x) => x * x)), values[0], values.at(-1)]
    const wanted = [sum, abs_sum, l2, first, last] as number[]
    const scale = [Math.sqrt(values.length), Math.sqrt(values.length), 1, 1, 1]
    const apart = figures.map((x, i) => Math.abs((x as number) - (wanted[i] as number)) / (scale[i] as number))
    expect(Math.max(...apart), path).toBeLessThan(most)
  }
  const final = read(`${folder}/expected.safetensors`)
  for (const [name, { data }] of final) {
    if (!name.startsWith("final.base.")) continue
    const ours = await matrix(result.model, name.slice("final.base.".length))
    expect(largestDifference(ours, data as Float32Array), name).toBeLessThan(most)
  }
  const logits = await plainLogits(result.model)
  expect(largestDifference(logits, final.get("final.plain.logits")?.data as Float32Array)).toBeLessThan(
    tolerance.logits_abs,
  )
  return result
}

async function matrix(model: Model, path: string): Promise<Float32Array> {
  const weight = model.view.overlays.get(path) as Weight
  const values = noGrad(engineOf(model.backend), () => weight.rows({ start: 0, end: weight.shape[0] }))
  return (await values.data()) as Float32Array
}

async function plainLogits(model: Model): Promise<Float32Array> {
  const inputs = read(common("models/llama/inputs.safetensors"))
  const numbers = (name: string): Int32Array => Int32Array.from(inputs.get(name)?.data as BigInt64Array, Number)
  const logits = model.forward({ ids: numbers("input_ids"), batch: 2, tokens: 12 })
  return (await logits.data()) as Float32Array
}

const base = async (): Promise<Model> => loadCausalLM(nodeFiles(common("models/llama")), { backend: await cpu() })

/** LoRA whose A of every later cycle is the recorded one. */
function withRecordedStarts(
  folder: string,
  method: AdapterMethod = lora({ r: 4, alpha: 8 }),
  cycle = 0,
): AdapterMethod {
  const starts = cycle === 0 ? undefined : read(`${folder}/reinit_${cycle}.safetensors`)
  return {
    ...method,
    init(context) {
      const { params } = method.init(context)
      const A = starts?.get(`${context.site.path}.lora_A.weight`)
      if (!A || !params.A) return { params }
      return { params: { ...params, A: { ...params.A, value: context.init.tensor(A.data as Float32Array, A.shape) } } }
    },
    restart: (next) => withRecordedStarts(folder, method, next),
  }
}

async function initial(folder: string): Promise<Model> {
  const files = nodeFiles(`${folder}/initial_adapter`)
  const methods = [
    { format: { ...lora.format, read: () => withRecordedStarts(folder) } as NonNullable<typeof lora.format> },
  ]
  return (await loadAdapter(await base(), files, { methods })).model
}

describe("recorded runs with restarts", () => {
  it("relora-zero: averages become zero, their count goes on", async () => {
    const folder = inHere("relora-zero")
    await compare(folder, await initial(folder), { optimizer: { reset: "magnitude", ratio: 1 } })
    await compare(folder, await initial(folder), { optimizer: { reset: "random", ratio: 1 } })
  })

  it("relora-upstream: averages pruned one by one by magnitude, merged a step late", async () => {
    const folder = inHere("relora-upstream")
    const optimizer = { reset: "magnitude", ratio: 0.9, together: false } as const
    await compare(folder, await initial(folder), { optimizer, delay: 1 })
    // Together is something else, and this run can tell.
    await expect(
      compare(folder, await initial(folder), { optimizer: { ...optimizer, together: true }, delay: 1 }),
    ).rejects.toThrow()
  })

  it("remora-delete: averages and their count begin again, the grouping moves on", async () => {
    const adapted = adapt(await base(), mora({ r: 4, type: "sharing" }), {
      targetModules: ["q_proj", "v_proj", "down_proj"],
    })
    const { model } = await compare(inMora("remora-delete"), adapted, { optimizer: { reset: "reset" } })
    expect(model.view.adapters[0]?.method.config.type).toBe("contiguous-tile")
  })
})
