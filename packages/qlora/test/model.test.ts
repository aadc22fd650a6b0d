/** Whole models: what bitsandbytes saved, what is quantised while loading, saving in 4 bits, and training over both as torch recorded it. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import {
  adapt,
  free,
  isTensor,
  loadAdapter,
  type Model,
  type ModelInput,
  merge,
  trainables,
  type Weight,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM, saveMerged, saveModel } from "@peftjs/models"
import { type MoraNumber, mora } from "@peftjs/mora"
import { memoryFiles, parseSafetensors, readText } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { adamw, jsonl, type StepMetrics, train } from "@peftjs/train"
import { describe, expect, it } from "vitest"
import { fp4, int8, nf4, qlora } from "../src/index.ts"
import { commonFixture, f32, fixture, json, largest, tensorsOf, valuesOf } from "./helpers.ts"

const backend = await cpu()
const folder = nodeFiles(fixture("bnb/llama-nf4-dq"))
const dense = nodeFiles(commonFixture("models/llama"))
const inputs = tensorsOf(commonFixture("models/llama/inputs.safetensors"))
const ints = (name: string): Int32Array => Int32Array.from(f32(inputs, name))
const plain: ModelInput = { ids: ints("input_ids"), batch: 2, tokens: 12 }
const right: ModelInput = { ids: ints("right.input_ids"), batch: 2, tokens: 12, mask: ints("right.attention_mask") }
const expected = json("bnb/llama-nf4-dq/expected.json")
const outputs = tensorsOf(fixture("bnb/llama-nf4-dq/expected.safetensors"))

async function logitsOf(model: Model, input: ModelInput): Promise<Float32Array> {
  const out = model.forward(input)
  const data = (await out.data()) as Float32Array
  free(out)
  return data
}

const packedSites = (model: Model): string[] =>
  [...model.sites.values()].flatMap((site) => (site.base.format === "nf4" ? [site.path] : [])).sort()

/** A folder's tensors as bytes, by name. */
function bytesOf(data: Uint8Array): Map<string, string> {
  const { tensors } = parseSafetensors(data)
  return new Map(
    [...tensors].map(([name, { dtype, shape, data: x }]) => [
      name,
      `${dtype} ${shape} ${Buffer.from(x.buffer, x.byteOffset, x.byteLength).toString("base64")}`,
    ]),
  )
}

async function saved(model: Model): Promise<{ tensors: Map<string, string>; config: string }> {
  const files = memoryFiles()
  await saveModel(model, files)
  return {
    tensors: bytesOf(files.files.get("model.safetensors") as Uint8Array),
    config: await readText(files, "config.json"),
  }
}

describe("a model that transformers saved in 4 bits", () => {
  it("has the recorded logits", async () => {
    const model = await loadCausalLM(folder, { backend, weights: nf4() })
    expect(packedSites(model)).toEqual(expected.linear_layers_in_4_bit)
    expect(largest(await logitsOf(model, plain), f32(outputs, "plain.logits"))).toBeLessThan(
      expected.tolerance.logits_abs,
    )
    const counted = Array.from(right.mask ?? [])
    const [ours, theirs] = [await logitsOf(model, right), f32(outputs, "right.logits")]
    const vocabulary = ours.length / counted.length
    for (const [i, one] of counted.entries())
      if (one === 1) {
        const at = [i * vocabulary, (i + 1) * vocabulary] as const
        expect(largest(ours.subarray(...at), theirs.subarray(...at))).toBeLessThan(expected.tolerance.logits_abs)
      }
  })

  it("is written as it was, byte for byte", async () => {
    const model = await loadCausalLM(folder, { backend, formats: [fp4(), nf4(), int8()] })
    const { tensors, config } = await saved(model)
    expect(tensors).toEqual(bytesOf(readFileSync(fixture("bnb/llama-nf4-dq/model.safetensors"))))
    expect(JSON.parse(config)).toEqual(json("bnb/llama-nf4-dq/config.json"))
    expect(config).toContain('"llm_int8_threshold": 6.0,')
  })

  it("is refused without its format, and with another", async () => {
    await expect(loadCausalLM(folder, { backend })).rejects.toThrow(/give its format.*E_CONFIG/)
    await expect(loadCausalLM(folder, { backend, weights: fp4() })).rejects.toThrow(/nf4.*fp4 was asked for.*E_CONFIG/)
  })
})

describe("a model quantised while it is loaded", () => {
  it("holds what bitsandbytes makes of it, and is written so", async () => {
    const model = await loadCausalLM(dense, { backend, weights: nf4({ doubleQuant: true }) })
    expect(packedSites(model)).toEqual(expected.linear_layers_in_4_bit)
    const { tensors, config } = await saved(model)
    const theirs = bytesOf(readFileSync(fixture("bnb/llama-nf4-dq/model.safetensors")))
    const codes = (all: Map<string, string>): Map<string, string> =>
      new Map([...all].filter(([name]) => !/nested_absmax|quant_state/.test(name)))
    expect(codes(tensors)).toEqual(codes(theirs))
    expect([...tensors.keys()].sort()).toEqual([...theirs.keys()].sort())
    expect(JSON.parse(config).quantization_config).toEqual(json("bnb/llama-nf4-dq/config.json").quantization_config)
    expect(largest(await logitsOf(model, plain), f32(outputs, "plain.logits"))).toBeLessThan(
      expected.tolerance.logits_abs,
    )
  })

  it.each([
    ["nf4", nf4({ doubleQuant: true }), 4.2],
    ["fp4", fp4(), 4.6],
    ["int8", int8(), 8.6],
  ] as const)("%s takes few bits a value and comes back from its folder", async (name, weights, bits) => {
    const model = await loadCausalLM(dense, { backend, weights })
    const bases = [...model.sites.values()].map((site) => site.base).filter((base) => base.format === name)
    const total = (f: (w: Weight) => number): number => bases.reduce((sum, w) => sum + f(w), 0)
    expect(bases).toHaveLength(14)
    // Layers of a few thousand values carry up to a nested block of padding.
    expect((8 * total((w) => w.bytes)) / total((w) => w.shape[0] * w.shape[1])).toBeLessThan(bits + 0.6)
    const files = memoryFiles()
    await saveModel(model, files)
    const again = await loadCausalLM(files, { backend, weights })
    expect(await logitsOf(again, plain)).toEqual(await logitsOf(model, plain))
  })

  it("leaves the modules alone that are named", async () => {
    const skipModules = ["lm_head", "model.layers.1"]
    const model = await loadCausalLM(dense, {
      backend,
      weights: nf4(),
      skipModules: ["lm_head", "down_proj", "model.layers.1"],
    })
    expect(packedSites(model).map((path) => path.replace(/.*\./, ""))).toEqual([
      "gate_proj",
      "up_proj",
      "k_proj",
      "o_proj",
      "q_proj",
      "v_proj",
    ])
    const all = await loadCausalLM(dense, { backend, weights: nf4(), skipModules: [] })
    expect(packedSites(all)).toContain("lm_head")
    const { config } = await saved(await loadCausalLM(dense, { backend, weights: nf4(), skipModules }))
    expect(JSON.parse(config).quantization_config.llm_int8_skip_modules).toEqual(skipModules)
  })

  it("a Conv1D is quantised as [out, in], and a tied head is left alone", async () => {
    const gpt2 = nodeFiles(commonFixture("models/gpt2"))
    const [base, model] = [
      await loadCausalLM(gpt2, { backend }),
      await loadCausalLM(gpt2, { backend, weights: int8() }),
    ]
    const path = "transformer.h.0.attn.c_attn"
    expect(model.sites.get(path)?.base.format).toBe("int8")
    expect(model.sites.get("lm_head")?.base.format).toBe("f32")
    expect(largest(await logitsOf(model, plain), await logitsOf(base, plain))).toBeLessThan(0.1)
    const files = memoryFiles()
    await saveModel(model, files)
    const again = await loadCausalLM(files, { backend, weights: int8() })
    expect(await logitsOf(again, plain)).toEqual(await logitsOf(model, plain))
  })

  it("merged it is dense, and is written so", async () => {
    const { weights, method } = qlora({ r: 4, init: false })
    const model = adapt(await loadCausalLM(dense, { backend, weights }), method, { targetModules: ["q_proj"] })
    const before = await logitsOf(model, plain)
    const { model: merged, maxError } = await merge(model)
    expect(maxError).toBeLessThan(1e-4)
    expect(largest(await logitsOf(merged, plain), before)).toBeLessThan(1e-4)
    const files = memoryFiles()
    await saveModel(merged, files)
    const again = await loadCausalLM(files, { backend })
    expect(largest(await logitsOf(again, plain), before)).toBeLessThan(1e-4)
  })
})

describe("merging into a packed base", () => {
  const weights = nf4({ doubleQuant: true })
  const adapted = async (): Promise<Model> => {
    const base = await loadCausalLM(folder, { backend, weights: nf4() })
    const start = nodeFiles(fixture("bnb/qlora-adamw/final_adapter"))
    return (await loadAdapter(base, start, { methods: [lora] })).model
  }

  it("makes a dense folder, unless it is asked to pack again: then it says what that loses", async () => {
    const model = await adapted()
    const wanted = await logitsOf(model, plain)
    const [dense, packed] = [memoryFiles(), memoryFiles()]
    const { maxError, packing: none } = await saveMerged(model, dense)
    expect([maxError < 1e-4, none]).toEqual([true, undefined])
    expect(JSON.parse(await readText(dense, "config.json")).quantization_config).toBeUndefined()
    const whole = await loadCausalLM(dense, { backend })
    expect(largest(await logitsOf(whole, plain), wanted)).toBeLessThan(1e-4)

    const { packing } = await saveMerged(model, packed, { weights })
    const again = await loadCausalLM(packed, { backend, weights })
    expect(packedSites(again)).toEqual(expected.linear_layers_in_4_bit)
    const path = "model.layers.0.mlp.up_proj.weight"
    let most = 0
    for (const site of again.sites.values()) {
      if (site.base.format !== "nf4") continue
      const [a, b] = [site.base, whole.params.get(site.param) as Weight]
      most = Math.max(most, largest(await valuesOf(a), await valuesOf(b)))
    }
    expect(again.params.has(path)).toBe(true)
    expect(packing?.maxError).toBeCloseTo(most, 6)
    expect(packing?.relative).toBeGreaterThan(0.01)
    expect(packing?.relative).toBeLessThan(0.3)
    expect(await logitsOf(model, plain)).toEqual(wanted)
  })

  it("is refused in another format, and over a base that is not packed", async () => {
    await expect(saveMerged(await adapted(), memoryFiles(), { weights: fp4() })).rejects.toThrow(/is nf4.*E_OPTION/)
    const plainBase = adapt(await loadCausalLM(dense, { backend }), lora(), { targetModules: ["q_proj"] })
    await expect(saveMerged(plainBase, memoryFiles(), { weights })).rejects.toThrow(/no layer.*is packed.*E_OPTION/)
  })
})

interface Recorded {
  readonly options: {
    readonly accumulation: number
    readonly max_grad_norm: number
    readonly schedule: { readonly name: "cosine" | "constant_with_warmup"; readonly warmup_steps: number }
    readonly optimizer: { lr: number; betas: [number, number]; eps: number; weight_decay: number }
  }
  readonly expected: Readonly<Record<"loss" | "grad_norm" | "lr" | "num_items_in_batch", readonly number[]>>
  readonly tolerance: Readonly<Record<string, number>>
}

async function follow(model: Model, path: string): Promise<void> {
  const { options, expected: run, tolerance } = json(`${path}/expected.json`) as Recorded
  const batches = tensorsOf(fixture(`${path}/batches.safetensors`))
  const columns = ["input_ids", "attention_mask", "labels"].map((key) => [key, Array.from(f32(batches, key))] as const)
  const width = batches.get("input_ids")?.shape.at(-1) as number
  const count = (columns[0]?.[1].length as number) / width
  const rows = Array.from({ length: count }, (_, i) =>
    Object.fromEntries(columns.map(([key, values]) => [key, values.slice(i * width, (i + 1) * width)])),
  )
  const { lr, betas, eps, weight_decay } = options.optimizer
  const steps: StepMetrics[] = []
  await train(model, jsonl(rows, "recorded"), {
    ...{ maxSteps: 10, batchSize: count / 10 / options.accumulation, gradientAccumulationSteps: options.accumulation },
    ...{ shuffle: false, scheduler: options.schedule.name, warmupSteps: options.schedule.warmup_steps },
    optimizer: adamw({ learningRate: lr, beta1: betas[0], beta2: betas[1], epsilon: eps, weightDecay: weight_decay }),
    maxGradNorm: options.max_grad_norm,
    onStep: (metrics) => void steps.push(metrics),
  })
  const column = (key: keyof StepMetrics): number[] => steps.map((s) => s[key] as number)
  expect(largest(column("loss"), run.loss)).toBeLessThan(tolerance.loss_abs as number)
  expect(largest(column("grad_norm"), run.grad_norm)).toBeLessThan(tolerance.grad_norm_abs as number)
  expect(largest(column("learning_rate"), run.lr)).toBeLessThan(1e-9)
  expect(column("tokens")).toEqual(run.num_items_in_batch)
  const final = tensorsOf(fixture(`${path}/final_adapter/adapter_model.safetensors`))
  const own = trainables(model)
  expect(own.length).toBeGreaterThan(0)
  for (const { name, tensor } of own) {
    const key = `base_model.model.${name.replace(/\.M$/, ".lora_A.weight").replace(/\.([AB])$/, ".lora_$1.weight")}`
    expect(largest(await tensor.data(), f32(final, key)), key).toBeLessThan(tolerance.final_weights_abs as number)
  }
}

describe("training over 4 bits, ten recorded steps", () => {
  it("LoRA", async () => {
    const base = await loadCausalLM(folder, { backend, weights: nf4() })
    const start = nodeFiles(fixture("bnb/qlora-adamw/initial_adapter"))
    const { model } = await loadAdapter(base, start, { methods: [lora] })
    await follow(model, "bnb/qlora-adamw")
    const recorded = tensorsOf(fixture("bnb/qlora-adamw/expected.safetensors"))
    expect(largest(await logitsOf(model, plain), f32(recorded, "final.plain.logits"))).toBeLessThan(1e-4)
    for (const value of base.params.values())
      if (!isTensor(value) && value.format === "nf4") expect(value.parts.every((part) => !part.tensor)).toBe(true)
  })

  it("MoRA", async () => {
    const base = await loadCausalLM(folder, { backend, weights: nf4() })
    const { options } = json("mora/train-type6-nf4/expected.json") as {
      options: { r: number; mora_type: MoraNumber; targets: string[] }
    }
    const model = adapt(base, mora({ r: options.r, type: options.mora_type }), { targetModules: options.targets })
    await follow(model, "mora/train-type6-nf4")
  })
})
