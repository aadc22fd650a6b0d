/** What is Llama's own: rotary scaling, shards, sites and biases. Its numbers are in architectures.test.ts. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import type { Model } from "@peftjs/core"
import { memoryFiles, openSafetensors, serializeSafetensors } from "@peftjs/safetensors"
import { nodeFile } from "@peftjs/safetensors/node"
import { expect, test } from "vitest"
import { loadCausalLM as loadFrom } from "../src/index.ts"
import { loadCausalLM } from "../src/node.ts"
import { difference, folder, inputOf, json, logitsOf, tensors } from "./fixtures.ts"

const plain = async (model: Model, name: string): Promise<Float32Array> =>
  logitsOf(model, inputOf(tensors(`models/${name}/inputs.safetensors`), "plain"))

test("rotary scaling changes the logits", async () => {
  const backend = await cpu({ kernels: "reference" })
  const name = "llama3-rope"
  const config = json(`models/${name}/config.json`)
  const weights = readFileSync(folder(`models/${name}/model.safetensors`))
  const logits = async (rope: object): Promise<Float32Array> => {
    const text = JSON.stringify({ ...config, rope_parameters: { rope_theta: 10000, ...rope } })
    const files = memoryFiles([
      ["config.json", new TextEncoder().encode(text)],
      ["model.safetensors", weights],
    ])
    return plain(await loadFrom(files, { backend }), name)
  }
  const unscaled = await logits({ rope_type: "default" })
  expect(
    difference(unscaled, await plain(await loadCausalLM(folder(`models/${name}`), { backend }), name)),
  ).toBeGreaterThan(1e-3)
  expect(await logits({ type: "linear", factor: 1 })).toEqual(unscaled)
  expect(difference(unscaled, await logits({ type: "linear", factor: 4 }))).toBeGreaterThan(1e-3)
})

test("four shards", async () => {
  const expected = json("safetensors/sharded/expected.json")
  const values = tensors("safetensors/sharded/expected.safetensors")
  const model = await loadCausalLM(folder("safetensors/sharded"), { backend: await cpu({ kernels: "reference" }) })
  const logits = await logitsOf(model, { ids: values.get("input_ids") as Int32Array, batch: 2, tokens: 12 })
  expect(difference(logits, values.get("plain.logits") as Float32Array)).toBeLessThan(expected.tolerance.logits_abs)
  expect(model.params.size).toBe(expected.tensors)
})

test("weights larger than a buffer are split by rows", async () => {
  const backend = await cpu({ kernels: "reference", maxBufferBytes: 20_000 })
  const model = await loadCausalLM(folder("models/llama"), { backend })
  const table = model.sites.get("model.embed_tokens")
  expect(table?.base.parts.length).toBe(2)
  const values = tensors("models/llama/expected.safetensors")
  expect(difference(await plain(model, "llama"), values.get("plain.logits") as Float32Array)).toBeLessThan(5e-5)
})

test("sites and parameters are spelled as in the file; a tied head shares its weight", async () => {
  const backend = await cpu({ kernels: "reference" })
  for (const name of ["llama", "llama-tied", "llama3-rope"]) {
    const model = await loadCausalLM(folder(`models/${name}`), { backend })
    const file = await openSafetensors(await nodeFile(folder(`models/${name}/model.safetensors`)))
    expect([...model.params.keys()].sort()).toEqual([...file.tensors.keys()].sort())
    const layers = model.config.num_hidden_layers as number
    expect(model.sites.size).toBe(7 * layers + 2)
    const [head, table] = [model.sites.get("lm_head"), model.sites.get("model.embed_tokens")]
    const tied = name !== "llama"
    expect(head?.tiedTo).toBe(tied ? "model.embed_tokens" : undefined)
    expect(head?.base === table?.base).toBe(tied)
    expect(table).toMatchObject({ kind: "embedding", in: 128, out: 64, param: "model.embed_tokens.weight" })
    expect(model.sites.get("model.layers.0.self_attn.k_proj")).toMatchObject({ kind: "linear", in: 64, out: 32 })
  }
})

test("biases of attention and mlp", async () => {
  const backend = await cpu({ kernels: "reference" })
  const config = { ...json("models/llama/config.json"), attention_bias: true, mlp_bias: true }
  const source = await openSafetensors(await nodeFile(folder("models/llama/model.safetensors")))
  const bias = (path: string, length: number, value: number) =>
    [`${path}.bias`, { dtype: "F32", shape: [length], data: new Float32Array(length).fill(value) }] as const
  const load = async (value: number): Promise<Model> => {
    const all = await Promise.all([...source.tensors.keys()].map(async (n) => [n, await source.read(n)] as const))
    const biases = [0, 1].flatMap((layer) =>
      Object.entries({ q: 64, k: 32, v: 32, o: 64, gate: 172, up: 172, down: 64 }).map(([n, length]) =>
        bias(`model.layers.${layer}.${n.length > 1 ? "mlp" : "self_attn"}.${n}_proj`, length, value),
      ),
    )
    const files = memoryFiles([
      ["config.json", new TextEncoder().encode(JSON.stringify(config))],
      ["model.safetensors", serializeSafetensors([...all, ...biases])],
    ])
    return loadFrom(files, { backend })
  }
  const expected = tensors("models/llama/expected.safetensors").get("plain.logits") as Float32Array
  expect(difference(await plain(await load(0), "llama"), expected)).toBeLessThan(5e-5)
  const shifted = await load(0.1)
  expect(shifted.sites.get("model.layers.1.mlp.down_proj")?.bias).toBe("model.layers.1.mlp.down_proj.bias")
  expect(difference(await plain(shifted, "llama"), expected)).toBeGreaterThan(0.1)
})
