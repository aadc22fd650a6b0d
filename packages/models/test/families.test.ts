/** What sets the architectures apart: spellings of configs and files, variants of transformers that the golden models do not have, sites. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import type { Backend, Model, Weight } from "@peftjs/core"
import { memoryFiles, parseSafetensors, serializeSafetensors } from "@peftjs/safetensors"
import { beforeAll, describe, expect, test } from "vitest"
import { initCausalLM, loadCausalLM as loadFrom, turned } from "../src/index.ts"
import { loadCausalLM } from "../src/node.ts"
import { difference, folder, inputOf, json, logitsOf, take, tensors } from "./fixtures.ts"

let backend: Backend
beforeAll(async () => {
  backend = await cpu({ kernels: "reference" })
})

const weightsOf = (name: string): Uint8Array => readFileSync(folder(`models/${name}/model.safetensors`))
const modelFrom = (config: object, weights: Uint8Array): Promise<Model> =>
  loadFrom(
    memoryFiles([
      ["config.json", new TextEncoder().encode(JSON.stringify(config))],
      ["model.safetensors", weights],
    ]),
    { backend },
  )
const plain = (model: Model, name: string): Promise<Float32Array> =>
  logitsOf(model, inputOf(tensors(`models/${name}/inputs.safetensors`), "plain"))

test.each(["llama", "llama3-rope", "qwen2"])("%s is the same described by transformers 4", async (name) => {
  const [new5, old4] = [
    await loadCausalLM(folder(`models/${name}`), { backend }),
    await modelFrom(json(`models/${name}/v4/config.json`), weightsOf(name)),
  ]
  expect(await plain(old4, name)).toEqual(await plain(new5, name))
  expect(old4.config.rope_theta).toBe(10000)
})

type Variant = { base: string; changes: object; logits: number[] }
const { ids, cases } = JSON.parse(readFileSync(new URL("fixtures/variants.json", import.meta.url), "utf8")) as {
  ids: number[]
  cases: Variant[]
}
test.each(cases)("$base with $changes", async ({ base, changes, logits }) => {
  const config = json(`models/${base}/config.json`)
  const last = async (values: object): Promise<Float32Array> =>
    take((await modelFrom(values, weightsOf(base))).lastLogits({ ids: Int32Array.from(ids), batch: 1, tokens: 12 }))
  expect(difference(await last({ ...config, ...changes }), logits)).toBeLessThan(5e-5)
  const idle = JSON.stringify(changes).includes(":false,") && base === "qwen2"
  if (!idle) expect(difference(await last(config), logits)).toBeGreaterThan(1e-4)
})

describe("gpt2", () => {
  const config = json("models/gpt2/config.json")

  test("layers: Conv1D turned round, tables that train every row, a tied head", async () => {
    const model = await loadCausalLM(folder("models/gpt2"), { backend })
    expect(model.sites.size).toBe(2 * 4 + 3)
    expect(model.sites.get("transformer.h.0.attn.c_attn")).toMatchObject({ in: 64, out: 192, fanInFanOut: true })
    expect(model.sites.get("transformer.h.1.mlp.c_proj")).toMatchObject({ in: 128, out: 64, fanInFanOut: true })
    expect(model.sites.get("lm_head")).toMatchObject({ tiedTo: "transformer.wte" })
    expect(model.sites.get("lm_head")).not.toHaveProperty("fanInFanOut")
    expect(model.sites.get("transformer.wte")).not.toHaveProperty("paddingId")
    expect(model.sites.get("transformer.wpe")).toMatchObject({ kind: "embedding", in: 64, out: 64 })
    const { base } = model.sites.get("transformer.h.0.mlp.c_fc") as { base: Weight }
    expect(base.shape).toEqual([128, 64])
    const stored = parseSafetensors(weightsOf("gpt2")).tensors.get("transformer.h.0.mlp.c_fc.weight")
    const rows = await take(base.rows({ start: 0, end: 128 }).mul(1))
    expect(rows).toEqual(turned(stored?.data as Float32Array, 64, 128))
  })

  test("files without the prefix and with the mask buffers of old releases", async () => {
    const names = [...parseSafetensors(weightsOf("gpt2")).tensors].map(
      ([name, tensor]) => [name.replace("transformer.", ""), tensor] as const,
    )
    const mask = { dtype: "F32", shape: [1, 1, 2, 2], data: new Float32Array(4) } as const
    const bare = serializeSafetensors([...names, ["h.0.attn.bias", mask], ["h.1.attn.masked_bias", mask]])
    const model = await modelFrom(config, bare)
    expect(await plain(model, "gpt2")).toEqual(
      await plain(await loadCausalLM(folder("models/gpt2"), { backend }), "gpt2"),
    )
  })

  test("refuses positions beyond those learned, and a matrix that is not turned", async () => {
    const model = await loadCausalLM(folder("models/gpt2"), { backend })
    const long = { ids: new Int32Array(65).fill(3), batch: 1, tokens: 65 }
    expect(() => model.forward(long)).toThrow(/position 64 is outside the 64.*E_POSITION/)
    const positions = Int32Array.from({ length: 65 }, (_, i) => i % 64)
    expect(await logitsOf(model, { ...long, positions })).toHaveLength(65 * 128)
    const { tensors: stored } = parseSafetensors(weightsOf("gpt2"))
    const name = "transformer.h.0.mlp.c_fc.weight"
    const other = serializeSafetensors([...stored].map(([n, t]) => [n, n === name ? { ...t, shape: [128, 64] } : t]))
    await expect(modelFrom(config, other)).rejects.toThrow(/c_fc\.weight is \[128,64\].*makes it \[64,128\].*E_WEIGHTS/)
  })

  test.each([
    [{ activation_function: "relu" }, /activation_function.*gelu_new/],
    [{ n_embd: 66 }, /"n_embd" is 66; it must be a multiple of n_head, 4/],
    [{ add_cross_attention: true }, /add_cross_attention/],
  ])("refuses %j", async (changes, message) => {
    await expect(modelFrom({ ...config, ...changes }, weightsOf("gpt2"))).rejects.toThrow(message)
  })

  test("random: what adds to the residual starts smaller", async () => {
    const model = initCausalLM({ ...config, n_embd: 128, n_inner: null }, { backend, seed: 1 })
    const spread = async (path: string): Promise<number> => {
      const weight = model.params.get(path) as Weight
      const values = await take(weight.rows({ start: 0, end: weight.shape[0] }).mul(1))
      return Math.sqrt(values.reduce((a, b) => a + b * b, 0) / values.length)
    }
    expect(await spread("transformer.h.0.mlp.c_fc.weight")).toBeCloseTo(0.02, 3)
    expect(await spread("transformer.h.0.mlp.c_proj.weight")).toBeCloseTo(0.01, 3)
    expect((model.params.get("transformer.h.0.mlp.c_fc.weight") as Weight).shape).toEqual([512, 128])
  })
})

test("qwen refuses layer types that are none", async () => {
  const config = { ...json("models/qwen3/config.json"), layer_types: ["full_attention", "chunked"] }
  await expect(modelFrom(config, weightsOf("qwen3"))).rejects.toThrow(/"layer_types".*"sliding_attention".*E_CONFIG/)
})

test("what configs leave out", () => {
  const small = { vocab_size: 8, hidden_size: 32, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 16 }
  const keys = (modelType: string, more: object = {}): number | undefined =>
    initCausalLM({ model_type: modelType, ...small, ...more }, { backend }).sites.get("model.layers.0.self_attn.k_proj")
      ?.out
  expect(keys("mistral")).toBe(8 * 2)
  expect(keys("mistral", { num_key_value_heads: null })).toBe(16 * 2)
  expect(keys("qwen2")).toBe(16 * 2)
  expect(keys("qwen3")).toBe(16 * 128)
})
