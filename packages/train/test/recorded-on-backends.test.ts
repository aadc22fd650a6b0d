/**
 * What PyTorch, transformers and PEFT recorded, on every backend there is: logits, loss, gradients and training. Another device adds up in
 * another order, so ten times the recorded tolerance is allowed; how much of it was needed is printed.
 */
import { readFileSync } from "node:fs"
import { forEachBackend } from "@peftjs/conformance"
import {
  type Backend,
  engineOf,
  free,
  loadAdapter,
  type Model,
  type ModelInput,
  trainables,
  unfreeze,
  valueAndGradients,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM, turned } from "@peftjs/models"
import { parseSafetensors, toFloat32 } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { backends, required } from "@peftjs/tests/backends"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { adamw, type StepMetrics, train } from "../src/index.ts"
import { fixture, largestDifference, readJson, recordedRows, valuesOf } from "./helpers.ts"

// A driver that computes on the CPU compiles every kernel first, and is slow.
vi.setConfig({ testTimeout: 600_000, hookTimeout: 600_000 })

/** Times the recorded tolerance. */
const allowed = 10
const names = ["llama", "qwen2", "gpt2"]
const runs = ["lora-adamw", "lora-adamw-fast"]

type Values = ReadonlyMap<string, Float32Array>

function tensorsIn(path: string): Values {
  const { tensors } = parseSafetensors(readFileSync(fixture(path)))
  const floats = (dtype: string, data: unknown): Float32Array =>
    dtype === "I64" ? Float32Array.from(data as BigInt64Array, Number) : toFloat32(dtype as never, data as never)
  return new Map([...tensors].map(([name, { dtype, data }]) => [name, floats(dtype, data)]))
}

function inputOf(inputs: Values, padding: string): ModelInput {
  const ints = (key: string): Int32Array => Int32Array.from(inputs.get(key) as Float32Array)
  const prefix = padding === "plain" ? "" : `${padding}.`
  const ids = ints(`${prefix}input_ids`)
  return { ids, batch: 2, tokens: ids.length / 2, ...(prefix ? { mask: ints(`${prefix}attention_mask`) } : {}) }
}

/** Errors as multiples of their tolerance. */
function makeReport(): { add(what: string, error: number, tolerance: number): void; lines(): string[] } {
  const worst = new Map<string, { error: number; tolerance: number }>()
  return {
    add(what, error, tolerance) {
      const before = worst.get(what)
      if (!before || !(error / tolerance <= before.error / before.tolerance)) worst.set(what, { error, tolerance })
      expect(error, what).toBeLessThan(allowed * tolerance)
    },
    lines: () =>
      [...worst].map(([what, { error, tolerance }]) => {
        const share = (error / tolerance).toFixed(2)
        return `${what.padEnd(40)} ${error.toExponential(1)} = ${share} of ${tolerance}, ${allowed} allowed`
      }),
  }
}

async function logitsError(model: Model, input: ModelInput, expected: Float32Array): Promise<number> {
  const logits = model.forward(input)
  const data = (await logits.data()) as Float32Array
  free(logits)
  const width = data.length / input.ids.length
  const seen = (values: Float32Array): Float32Array =>
    values.filter((_, i) => input.mask?.[Math.floor(i / width)] !== 0)
  return largestDifference(seen(data), seen(expected))
}

/** Loss and gradients of a padded batch, the latter as the files spell them. */
async function learn(model: Model, inputs: Values): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const labels = Int32Array.from(inputs.get("right.labels") as Float32Array)
  const { value, gradients } = valueAndGradients(engineOf(model.backend), () =>
    model.losses(inputOf(inputs, "right"), labels, { training: true }).mean(),
  )
  const found = new Map<string, Float32Array>()
  for (const { name, tensor } of trainables(model)) {
    const gradient = gradients.get(tensor)
    if (!gradient) continue
    const site = [...model.sites.values()].find(({ param, fanInFanOut }) => param === name && fanInFanOut)
    const data = (await gradient.data()) as Float32Array
    found.set(name.replace(/\.([AB])$/, ".lora_$1.weight"), site ? turned(data, site.out, site.in) : data)
  }
  const loss = ((await value.data()) as Float32Array)[0] as number
  for (const tensor of [value, ...gradients.values()]) free(tensor)
  return { loss, gradients: found }
}

const largest = (values: Float32Array): number => values.reduce((most, x) => Math.max(most, Math.abs(x)), 0)

forEachBackend(backends, { describe, it, required }, "recorded figures on ", (name, makeBackend) => {
  const report = makeReport()
  let backend: Backend
  beforeAll(async () => {
    backend = await makeBackend()
  })
  afterAll(() => console.log([`${name}: errors beside PyTorch`, ...report.lines()].join("\n  ")))

  const load = (path: string): Promise<Model> => loadCausalLM(nodeFiles(fixture(path)), { backend })
  const withAdapter = async (base: Model, path: string): Promise<Model> =>
    (await loadAdapter(base, nodeFiles(fixture(path)), { methods: [lora] })).model

  /** Loss and gradients as recorded; `stats` tells the largest entry of those that are not recorded whole. */
  async function checkLearning(
    what: string,
    model: Model,
    folder: string,
    prefix: string,
    expectedLoss: number,
  ): Promise<void> {
    const { tolerance, grad_stats_right: stats = {} } = readJson(`${folder}/expected.json`)
    const recorded = tensorsIn(`${folder}/expected.safetensors`)
    const inputs = tensorsIn(`models/${what.split(" ")[0]}/inputs.safetensors`)
    const { loss, gradients } = await learn(model, inputs)
    report.add(`${what} loss`, Math.abs(loss - expectedLoss), tolerance.loss_abs)
    for (const [key, gradient] of gradients) {
      const whole = recorded.get(`right.grad.${prefix}${key}`)
      const scale = whole ? largest(whole) : stats[`${prefix}${key}`].max_abs
      const ends = stats[`${prefix}${key}`]
      const error = whole
        ? largestDifference(gradient, whole)
        : Math.max(
            Math.abs((gradient[0] as number) - ends.first),
            Math.abs((gradient.at(-1) as number) - ends.last),
            Math.abs(largest(gradient) - ends.max_abs),
          )
      report.add(`${what} gradients`, error / scale, tolerance.grad_rel_to_max)
    }
    expect(gradients.size).toBeGreaterThan(0)
  }

  it.each(names)("%s: logits, loss and the gradient of every parameter", async (model) => {
    const folder = `models/${model}`
    const { tolerance, loss } = readJson(`${folder}/expected.json`)
    const [recorded, inputs] = [tensorsIn(`${folder}/expected.safetensors`), tensorsIn(`${folder}/inputs.safetensors`)]
    const base = await load(folder)
    for (const padding of ["plain", "right", "left"]) {
      const logits = recorded.get(`${padding}.logits`)
      if (logits)
        report.add(`${model} logits`, await logitsError(base, inputOf(inputs, padding), logits), tolerance.logits_abs)
    }
    await checkLearning(model, unfreeze(base), folder, "", loss.right)
  })

  it.each(names)("%s with PEFT's LoRA on all layers: logits, loss and gradients", async (model) => {
    const folder = `adapters/${model}/lora-all-linear`
    const { tolerance, loss_right } = readJson(`${folder}/expected.json`)
    const adapted = await withAdapter(await load(`models/${model}`), folder)
    const logits = tensorsIn(`${folder}/expected.safetensors`).get("plain.logits") as Float32Array
    const input = inputOf(tensorsIn(`models/${model}/inputs.safetensors`), "plain")
    report.add(`${model} LoRA logits`, await logitsError(adapted, input, logits), tolerance.logits_abs)
    await checkLearning(`${model} LoRA`, adapted, folder, "base_model.model.", loss_right)
  })

  it.each(runs)("twenty steps of %s", async (run) => {
    const { options, expected, tolerance } = readJson(`training/${run}/expected.json`)
    const { lr: learningRate, weight_decay: weightDecay, betas, eps: epsilon } = options.optimizer
    const model = await withAdapter(await load("models/llama"), "training/lora-adamw/initial_adapter")
    const steps: StepMetrics[] = []
    await train(model, recordedRows(), {
      ...{ maxSteps: 20, batchSize: 2, gradientAccumulationSteps: 2, shuffle: false },
      ...{ maxGradNorm: options.max_grad_norm, scheduler: options.schedule.name },
      warmupSteps: options.schedule.warmup_steps,
      optimizer: adamw({ learningRate, weightDecay, beta1: betas[0], beta2: betas[1], epsilon }),
      onStep: (metrics) => void steps.push(metrics),
    })
    const column = (key: "loss" | "grad_norm"): number[] => steps.map((step) => step[key])
    report.add(`${run} loss`, largestDifference(column("loss"), expected.loss), tolerance.loss_abs)
    report.add(
      `${run} gradient norm`,
      largestDifference(column("grad_norm"), expected.grad_norm),
      tolerance.grad_norm_abs,
    )
    const final = tensorsIn(`training/${run}/final_adapter/adapter_model.safetensors`)
    for (const [path, values] of await valuesOf(model)) {
      const theirs = final.get(`base_model.model.${path.replace(/\.([AB])$/, ".lora_$1.weight")}`) ?? []
      report.add(`${run} final weights`, largestDifference(values, theirs), tolerance.final_weights_abs)
    }
  })
})
