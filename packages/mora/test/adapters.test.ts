/** Adapters of the published code and training from scratch: logits, losses, gradients, merged weights and ten steps as torch recorded them. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import {
  adapt,
  adapterOf,
  engineOf,
  free,
  loadAdapter,
  type Model,
  type ModelInput,
  merge,
  saveAdapter,
  trainables,
  valueAndGradients,
  type Weight,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { memoryFiles, parseSafetensors, readText, writeSafetensors } from "@peftjs/safetensors"
import { adamw, jsonl, type StepMetrics, train } from "@peftjs/train"
import { describe, expect, it } from "vitest"
import { type MoraNumber, mora, upstreamLayout } from "../src/index.ts"
import { commonFixture, fixture, largest, tensorsOf } from "./helpers.ts"

const backend = await cpu({ kernels: "reference" })
const llama = await loadCausalLM(commonFixture("models/llama"), { backend })
const inputs = tensorsOf(commonFixture("models/llama/inputs.safetensors"))
const ints = (name: string): Int32Array => Int32Array.from(inputs.get(name) ?? [])
const plain: ModelInput = { ids: ints("input_ids"), batch: 2, tokens: 12 }
const right: ModelInput = { ids: ints("right.input_ids"), batch: 2, tokens: 12, mask: ints("right.attention_mask") }
const labels = ints("right.labels")
const json = (path: string): never => JSON.parse(readFileSync(fixture(path), "utf8")) as never

async function logitsOf(model: Model): Promise<Float32Array> {
  const out = model.forward(plain)
  const data = (await out.data()) as Float32Array
  free(out)
  return data
}
const keyOf = (name: string): string => `base_model.model.${name.replace(/\.M$/, ".lora_A.weight")}`

interface Expected {
  readonly r: number
  readonly mora_type: MoraNumber
  readonly R: Readonly<Record<string, number>>
  readonly saved_keys: Readonly<Record<string, { readonly shape: readonly number[] }>>
  readonly trainable_parameters: number
  readonly loss_right: number
  readonly merged_changed_weights: Readonly<
    Record<string, { abs_sum: number; l2: number; first: number; last: number }>
  >
  readonly tolerance: Readonly<Record<"logits_abs" | "loss_abs" | "grad_rel_to_max" | "merged_weight_abs", number>>
}

/** A folder of the published code with M once, as it may be. */
async function once(path: string): Promise<ReturnType<typeof memoryFiles>> {
  const files = memoryFiles()
  const { tensors } = parseSafetensors(readFileSync(fixture(`${path}/adapter_model.safetensors`)))
  const A = [...tensors].filter(([name]) => name.includes("lora_A"))
  for (const [name, { data }] of A)
    expect(tensors.get(name.replace("lora_A", "lora_B"))?.data, `${name}, twice`).toEqual(data)
  await writeSafetensors(files, "adapter_model.safetensors", A, { format: "pt" })
  await files.write("adapter_config.json", [readFileSync(fixture(`${path}/adapter_config.json`))])
  return files
}
const methods = [lora, mora, { format: upstreamLayout }]

describe.each(["llama-type1", "llama-type6"])("%s, written by the published code", (name) => {
  const expected = json(`${name}/expected.json`) as Expected
  const outputs = tensorsOf(fixture(`${name}/expected.safetensors`))
  const { logits_abs, loss_abs, grad_rel_to_max, merged_weight_abs } = expected.tolerance
  const load = async (): Promise<Model> => (await loadAdapter(llama, await once(name), { methods })).model

  it("logits, loss and gradients", async () => {
    const model = await load()
    expect(adapterOf(model).method.config).toMatchObject({
      r: expected.r,
      type: mora({ type: expected.mora_type }).config.type,
    })
    expect(largest(await logitsOf(model), outputs.get("plain.logits") ?? [])).toBeLessThan(logits_abs)
    const { value, gradients } = valueAndGradients(engineOf(backend), () => model.losses(right, labels).mean())
    expect(Math.abs(((await value.data())[0] as number) - expected.loss_right)).toBeLessThan(loss_abs)
    let parameters = 0
    for (const { name: path, tensor } of trainables(model)) {
      const wanted = outputs.get(`right.grad.${keyOf(path)}`) ?? new Float32Array()
      const scale = wanted.reduce((m, g) => Math.max(m, Math.abs(g)), 0)
      expect(tensor.shape).toEqual(expected.saved_keys[keyOf(path)]?.shape)
      expect(largest((await gradients.get(tensor)?.data()) ?? [], wanted) / scale, path).toBeLessThan(grad_rel_to_max)
      parameters += tensor.size
    }
    expect(parameters).toBe(expected.trainable_parameters)
    for (const t of [value, ...gradients.values()]) free(t)
  })

  it("merged weights and logits", async () => {
    const { model, maxError, sites } = await merge(await load())
    expect(sites).toBe(Object.keys(expected.merged_changed_weights).length)
    expect(maxError).toBeLessThan(1e-4)
    expect(largest(await logitsOf(model), outputs.get("plain.logits") ?? [])).toBeLessThan(logits_abs)
    for (const [path, { abs_sum, l2, first, last }] of Object.entries(expected.merged_changed_weights)) {
      const weight = model.view.overlays.get(path) as Weight
      const values = (await weight.rows({ start: 0, end: weight.shape[0] }).data()) as Float32Array
      const total = (f: (x: number) => number): number => values.reduce((sum, x) => sum + f(x), 0)
      expect(Math.abs((values[0] as number) - first), path).toBeLessThan(merged_weight_abs)
      expect(Math.abs((values.at(-1) as number) - last), path).toBeLessThan(merged_weight_abs)
      expect(Math.abs(total(Math.abs) - abs_sum) / Math.sqrt(values.length), path).toBeLessThan(merged_weight_abs)
      expect(Math.abs(Math.sqrt(total((x) => x * x)) - l2), path).toBeLessThan(merged_weight_abs)
    }
  })

  it("in our own layout it says MORA, and is the same when it comes back", async () => {
    const model = await load()
    const adapter = adapterOf(model)
    const { format, config } = mora({ r: expected.r, type: expected.mora_type })
    const { loaded: _, ...own } = { ...adapter, method: { ...adapter.method, format, config } }
    const files = memoryFiles()
    await saveAdapter({ ...model, view: { ...model.view, adapters: [own as never] } }, files)
    const config_ = JSON.parse(await readText(files, "adapter_config.json"))
    expect(config_).toMatchObject({ peft_type: "MORA", r: expected.r, mora_type: expected.mora_type, mora_dropout: 0 })
    const { model: again, report } = await loadAdapter(llama, files, { methods })
    expect(report).toMatchObject({ peftType: "MORA", missing: [], unexpected: [] })
    expect(await logitsOf(again)).toEqual(await logitsOf(model))
  })
})

interface Run {
  readonly options: {
    readonly r: number
    readonly mora_type: MoraNumber
    readonly targets: readonly string[]
    readonly max_grad_norm: number
    readonly optimizer: { lr: number; betas: [number, number]; eps: number; weight_decay: number }
    readonly schedule: { readonly warmup_steps: number }
  }
  readonly expected: Readonly<Record<"loss" | "grad_norm" | "lr" | "num_items_in_batch", readonly number[]>>
  readonly tolerance: Readonly<Record<"loss_abs" | "grad_norm_abs" | "final_weights_abs", number>>
}

it.each(["train-type1", "train-type6"])("%s: ten steps", async (name) => {
  const { options, expected, tolerance } = json(`${name}/expected.json`) as Run
  const model = adapt(llama, mora({ r: options.r, type: options.mora_type }), { targetModules: options.targets })
  const batches = tensorsOf(fixture(`${name}/batches.safetensors`))
  const columns = ["input_ids", "attention_mask", "labels"].map(
    (key) => [key, Array.from(batches.get(key) ?? [])] as const,
  )
  const rows = Array.from({ length: 20 }, (_, i) =>
    Object.fromEntries(columns.map(([key, values]) => [key, values.slice(i * 12, i * 12 + 12)])),
  )
  const steps: StepMetrics[] = []
  const { lr, betas, eps, weight_decay } = options.optimizer
  await train(model, jsonl(rows, "recorded"), {
    ...{ maxSteps: 10, batchSize: 2, shuffle: false, scheduler: "cosine", warmupSteps: options.schedule.warmup_steps },
    optimizer: adamw({ learningRate: lr, beta1: betas[0], beta2: betas[1], epsilon: eps, weightDecay: weight_decay }),
    maxGradNorm: options.max_grad_norm,
    onStep: (metrics) => void steps.push(metrics),
  })
  const column = (key: keyof StepMetrics): number[] => steps.map((s) => s[key] as number)
  expect(largest(column("loss"), expected.loss)).toBeLessThan(tolerance.loss_abs)
  expect(largest(column("grad_norm"), expected.grad_norm)).toBeLessThan(tolerance.grad_norm_abs)
  expect(largest(column("learning_rate"), expected.lr)).toBeLessThan(1e-9)
  expect(column("tokens")).toEqual(expected.num_items_in_batch)
  const final = tensorsOf(fixture(`${name}/final_adapter/adapter_model.safetensors`))
  for (const { name: path, tensor } of trainables(model))
    expect(largest(await tensor.data(), final.get(keyOf(path)) ?? []), path).toBeLessThan(tolerance.final_weights_abs)
})
