/** New adapters with every option: what their configuration says, that they come back from disk, and that parts of weights do not matter. */
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import { fakeBackend } from "@peftjs/conformance"
import {
  type AdaptOptions,
  adapt,
  adapterOf,
  assign,
  type Backend,
  configOf,
  engineOf,
  free,
  keyOf,
  loadAdapter,
  type Model,
  noGrad,
  normals,
  saveAdapter,
  scope,
  tensor,
  trainables,
} from "@peftjs/core"
import { loadCausalLM } from "@peftjs/models/node"
import { memoryFiles } from "@peftjs/safetensors"
import { describe, expect, it, test } from "vitest"
import { type LoraOptions, lora } from "../src/index.ts"

const folder = (name: string): string => fileURLToPath(new URL(`../../../fixtures/models/${name}`, import.meta.url))
const input = { ids: Int32Array.of(5, 17, 99, 3, 64, 127, 0, 42, 8, 1), batch: 2, tokens: 5 }
const labels = input.ids

/** Moves every trainable value a little, alike on every backend, whatever parts a matrix is in. */
function move(model: Model): void {
  const used = new Map<string, number>()
  for (const { name, tensor: value } of trainables(model)) {
    const { engine, shape, size } = value
    const [whole] = name.split("#") as [string]
    const at = used.get(whole) ?? 0
    used.set(whole, at + size)
    const noise = tensor(engine.backend, normals(keyOf(1, whole), 10000, 0.02).subarray(at, at + size), shape)
    scope(engine, () => noGrad(engine, () => assign(value, value.add(noise))))
    free(noise)
  }
}
async function losses(model: Model): Promise<Float32Array> {
  const found = model.losses(input, labels)
  const values = (await found.data()) as Float32Array
  free(found)
  return values
}

const cases: [string, string, LoraOptions, AdaptOptions, object][] = [
  ["DoRA", "llama", { dora: true }, { targetModules: ["q_proj", "embed_tokens"] }, { use_dora: true }],
  ["a bias of B", "llama", { loraBias: true }, { targetModules: ["q_proj"] }, { lora_bias: true }],
  ["all biases", "gpt2", {}, { targetModules: ["c_attn"], bias: "all" }, { bias: "all", fan_in_fan_out: true }],
  [
    "modules",
    "llama",
    {},
    { targetModules: ["q_proj"], modulesToSave: ["lm_head", "norm"] },
    { modules_to_save: ["lm_head", "norm"], bias: "none" },
  ],
  [
    "tokens, head tied",
    "llama-tied",
    {},
    { targetModules: ["q_proj"], trainableTokenIndices: [64, 3] },
    { trainable_token_indices: [64, 3], ensure_weight_tying: false },
  ],
  [
    "tokens by module, the same of the tied head",
    "llama-tied",
    {},
    { targetModules: ["q_proj"], trainableTokenIndices: { lm_head: [64, 3], embed_tokens: [64, 3] } },
    { trainable_token_indices: { lm_head: [64, 3], embed_tokens: [64, 3] } },
  ],
  [
    "an embedding that stays tied",
    "llama-tied",
    {},
    { targetModules: ["q_proj"], modulesToSave: ["lm_head"], ensureWeightTying: true },
    { modules_to_save: ["lm_head"], ensure_weight_tying: true },
  ],
]

describe.each(cases)("%s", (_, name, options, where, config) => {
  const make = async (backend: Backend): Promise<Model> => {
    const model = adapt(await loadCausalLM(folder(name), { backend }), lora({ r: 2, ...options }), where)
    move(model)
    return model
  }

  it("says so in the configuration, and comes back from disk", async () => {
    const model = await make(await cpu())
    expect(configOf(model, adapterOf(model))).toMatchObject(config)
    const files = memoryFiles()
    await saveAdapter(model, files)
    const base = await loadCausalLM(folder(name), { backend: model.backend })
    const { model: again } = await loadAdapter(base, files, { methods: [lora] })
    expect(await losses(again)).toEqual(await losses(model))
    expect(await losses(again)).not.toEqual(await losses(base))
    expect(trainables(again).map((t) => t.name)).toEqual(trainables(model).map((t) => t.name))
  })

  it("is the same where matrices lie in parts", async () => {
    const [whole, parts] = [await losses(await make(await cpu())), await losses(await make(fakeBackend()))]
    for (const [i, loss] of parts.entries()) expect(loss).toBeCloseTo(whole[i] as number, 4)
  })
})

test("a tied head follows its embedding's tokens, unless it is given others", async () => {
  const base = await loadCausalLM(folder("llama-tied"), { backend: await cpu() })
  const sizes = (trainableTokenIndices: AdaptOptions["trainableTokenIndices"]): number[] =>
    trainables(adapt(base, lora(), { targetModules: ["q_proj"], trainableTokenIndices: trainableTokenIndices ?? [] }))
      .filter((t) => t.name.endsWith("trainable_tokens_delta"))
      .map((t) => t.tensor.shape[0] as number)
  expect(sizes([1, 2])).toEqual([2])
  expect(sizes({ embed_tokens: [1, 2], lm_head: [1, 2] })).toEqual([2])
  expect(sizes({ embed_tokens: [1, 2], lm_head: [3] })).toEqual([2, 1])
})

test.each<[string, LoraOptions, AdaptOptions, string]>([
  ["a bias of B with DoRA", { loraBias: true, dora: true }, {}, "E_OPTION"],
  ["a bias of B with an init of its own", { loraBias: true, init: "gaussian" }, {}, "E_OPTION"],
  ["a bias of B on an embedding", { loraBias: true }, { targetModules: ["embed_tokens"] }, "E_OPTION"],
  ["an option that is not there", { dorra: true } as LoraOptions, {}, "E_OPTION"],
  ["a tied adapter", {}, { targetModules: ["embed_tokens"], ensureWeightTying: true }, "E_OPTION"],
])("refused: %s", async (_, options, where, code) => {
  const base = await loadCausalLM(folder("llama-tied"), { backend: await cpu() })
  const { liveBuffers } = engineOf(base.backend)
  expect(() => adapt(base, lora(options), { targetModules: ["q_proj"], ...where })).toThrow(code)
  expect(engineOf(base.backend).liveBuffers).toBe(liveBuffers)
})
