/** The runs that PyTorch, transformers and PEFT recorded: every step, and the weights at the end. */
import { readFileSync } from "node:fs"
import { trainables, unfreeze } from "@peftjs/core"
import { parseSafetensors } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { adamw, type Optimizer, type StepMetrics, sgd, train } from "../src/index.ts"
import { fixture, largestDifference, readJson, recordedRows, tinyLlama, valuesOf, withAdapter } from "./helpers.ts"

interface Recorded {
  readonly options: {
    readonly max_grad_norm: number
    readonly schedule: { readonly name: "cosine"; readonly warmup_steps: number }
    readonly optimizer: Readonly<Record<string, number>> & { readonly name: string; readonly betas: [number, number] }
    readonly gradient_checkpointing?: boolean
  }
  readonly expected: Readonly<Record<"loss" | "grad_norm" | "lr" | "num_items_in_batch", readonly number[]>>
  readonly tolerance: Readonly<Record<"loss_abs" | "grad_norm_abs" | "lr_abs" | "final_weights_abs", number>>
}

const optimizerOf = ({ optimizer: o }: Recorded["options"]): Optimizer => {
  const common = { learningRate: o.lr as number, weightDecay: o.weight_decay as number }
  if (o.name === "sgd") return sgd({ ...common, momentum: o.momentum as number })
  return adamw({ ...common, beta1: o.betas[0], beta2: o.betas[1], epsilon: o.eps as number })
}

async function run(name: string, model: Awaited<ReturnType<typeof tinyLlama>>): Promise<Recorded> {
  const recorded = readJson(`training/${name}/expected.json`) as Recorded
  const { options, expected, tolerance } = recorded
  const steps: StepMetrics[] = []
  await train(model, recordedRows(), {
    maxSteps: 20,
    batchSize: 2,
    gradientAccumulationSteps: 2,
    shuffle: false,
    optimizer: optimizerOf(options),
    scheduler: options.schedule.name,
    warmupSteps: options.schedule.warmup_steps,
    maxGradNorm: options.max_grad_norm,
    gradientCheckpointing: options.gradient_checkpointing ?? false,
    onStep: (metrics) => void steps.push(metrics),
  })
  const column = (key: keyof StepMetrics): number[] => steps.map((s) => s[key] as number)
  expect(largestDifference(column("loss"), expected.loss)).toBeLessThan(tolerance.loss_abs)
  expect(largestDifference(column("grad_norm"), expected.grad_norm)).toBeLessThan(tolerance.grad_norm_abs)
  expect(largestDifference(column("learning_rate"), expected.lr)).toBeLessThan(tolerance.lr_abs)
  expect(column("tokens")).toEqual(expected.num_items_in_batch)
  return recorded
}

function weights(path: string): Map<string, Float32Array> {
  const { tensors } = parseSafetensors(readFileSync(fixture(path)))
  return new Map([...tensors].map(([name, { data }]) => [name, data as Float32Array]))
}

describe("recorded training runs", () => {
  it.each(["lora-adamw", "lora-adamw-fast", "lora-sgd", "lora-no-clip", "lora-checkpointing"])("%s", async (name) => {
    const model = await withAdapter("training/lora-adamw/initial_adapter")
    const { tolerance } = await run(name, model)
    const final = weights(`training/${name}/final_adapter/adapter_model.safetensors`)
    const ours = await valuesOf(model)
    expect(ours.size).toBe(final.size)
    for (const [path, values] of ours) {
      const key = `base_model.model.${path.replace(/\.([AB])$/, ".lora_$1.weight")}`
      expect(largestDifference(values, final.get(key) ?? []), key).toBeLessThan(tolerance.final_weights_abs)
    }
  })

  it("full-adamw", async () => {
    const model = unfreeze(await tinyLlama())
    const { tolerance } = await run("full-adamw", model)
    const { parameters_without_weight_decay: without, final_weights: summary } = readJson(
      "training/full-adamw/expected.json",
    )
    expect(
      trainables(model)
        .filter((t) => !t.decay)
        .map((t) => t.name)
        .sort(),
    ).toEqual(without)
    const final = weights("training/full-adamw/final_weights.safetensors")
    const ours = await valuesOf(model)
    for (const [path, values] of final)
      expect(largestDifference(ours.get(path) ?? [], values), path).toBeLessThan(tolerance.final_weights_abs)
    // Large tensors are recorded as sums only.
    expect([...ours.keys()].sort()).toEqual(Object.keys(summary).sort())
    for (const [path, { sum, abs_sum, l2, first, last }] of Object.entries<Record<string, number>>(summary)) {
      const values = ours.get(path) as Float32Array
      const total = (f: (x: number) => number): number => values.reduce((acc, x) => acc + f(x), 0)
      const far = (a: number | undefined, b: number | undefined): number => Math.abs((a as number) - (b as number))
      const drift = tolerance.final_weights_abs
      expect(Math.max(far(values[0], first), far(values.at(-1), last)), path).toBeLessThan(drift)
      expect(
        far(
          total((x) => x),
          sum,
        ) / Math.sqrt(values.length),
        path,
      ).toBeLessThan(drift)
      expect(far(total(Math.abs), abs_sum) / Math.sqrt(values.length), path).toBeLessThan(drift)
      expect(far(Math.sqrt(total((x) => x * x)), l2), path).toBeLessThan(drift)
    }
  })
})
