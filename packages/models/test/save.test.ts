/** Random models, and models written back to folders. */
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu"
import type { Backend, Model, Tensor, Weight } from "@peftjs/core"
import { assign, engineOf, isTensor, scope, tensor, unfreeze } from "@peftjs/core"
import { memoryFiles, parseSafetensors } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { beforeAll, describe, expect, test } from "vitest"
import { initCausalLM, loadCausalLM, saveModel } from "../src/index.ts"
import * as node from "../src/node.ts"
import { folder, json, logitsOf, take } from "./fixtures.ts"

let backend: Backend
beforeAll(async () => {
  backend = await cpu({ kernels: "reference" })
})
const input = { ids: Int32Array.of(1, 5, 9, 77), batch: 2, tokens: 2 }

async function values(model: Model, path: string): Promise<Float32Array> {
  const value = model.params.get(path) as Tensor | Weight
  return isTensor(value)
    ? ((await value.data()) as Float32Array)
    : take(value.rows({ start: 0, end: value.shape[0] }).mul(1))
}

describe("random models", () => {
  const config = json("models/llama-tied/config.json")
  test("start as transformers' do and depend on the seed only", async () => {
    const model = initCausalLM(config, { backend, seed: 3 })
    const table = await values(model, "model.embed_tokens.weight")
    expect(table.subarray(0, 64).every((x) => x === 0)).toBe(true)
    const rest = table.subarray(64)
    const mean = rest.reduce((a, b) => a + b, 0) / rest.length
    const std = Math.sqrt(rest.reduce((a, b) => a + b * b, 0) / rest.length)
    expect(Math.abs(mean)).toBeLessThan(1e-3)
    expect(Math.abs(std - 0.02)).toBeLessThan(1e-3)
    expect((await values(model, "model.norm.weight")).every((x) => x === 1)).toBe(true)
    const [same, other] = [initCausalLM(config, { backend, seed: 3 }), initCausalLM(config, { backend, seed: 4 })]
    const logits = await logitsOf(model, input)
    expect(await logitsOf(same, input)).toEqual(logits)
    expect(await logitsOf(other, input)).not.toEqual(logits)
    const q = await values(model, "model.layers.0.self_attn.q_proj.weight")
    expect(q).not.toEqual(await values(model, "model.layers.1.self_attn.q_proj.weight"))
  })

  test("refuse a config as loading does", async () => {
    expect(() => initCausalLM({ ...config, vocab_size: -1 }, { backend })).toThrow(/vocab_size.*E_CONFIG/)
    const model = await node.initCausalLM(folder("models/llama/config.json"), { backend, name: "tiny" })
    expect(model.name).toBe("tiny")
    expect(model.sites.has("lm_head")).toBe(true)
    await expect(node.initCausalLM(folder("models/no.json"), { backend })).rejects.toMatchObject({
      code: "E_FILE_NOT_FOUND",
    })
  })
})

describe("saving", () => {
  test.each(["llama", "llama-tied", "gpt2", "qwen3"])(
    "%s comes back bit for bit, names and config unchanged",
    async (name) => {
      const source = nodeFiles(folder(`models/${name}`))
      const model = await loadCausalLM(source, { backend })
      const files = memoryFiles()
      await saveModel(model, files, { copyFrom: source })
      const stored = parseSafetensors(files.files.get("model.safetensors") as Uint8Array)
      const original = parseSafetensors(await readFile(folder(`models/${name}/model.safetensors`)))
      expect(stored.metadata).toEqual({ format: "pt" })
      expect([...stored.tensors.keys()].sort()).toEqual([...original.tensors.keys()].sort())
      for (const [path, tensor] of stored.tensors) expect(tensor.data, path).toEqual(original.tensors.get(path)?.data)
      expect(JSON.parse(new TextDecoder().decode(files.files.get("config.json")))).toEqual(
        json(`models/${name}/config.json`),
      )
      expect(files.files.has("generation_config.json")).toBe(true)
      expect(await logitsOf(await loadCausalLM(files, { backend }), input)).toEqual(await logitsOf(model, input))
    },
  )

  test("what training changed stands in the file; half precision is declared", async () => {
    const small = await cpu({ kernels: "reference", maxBufferBytes: 20_000 })
    const model = await loadCausalLM(nodeFiles(folder("models/llama")), { backend: small })
    const full = unfreeze(model)
    const norm = full.view.overlays.get("model.norm.weight") as Tensor
    scope(engineOf(small), () => assign(norm, tensor(small, new Float32Array(64).fill(2.5), [64])))
    for (const dtype of ["f32", "bf16", "f16"] as const) {
      const files = memoryFiles()
      const live = engineOf(small).liveBuffers
      await saveModel(full, files, { dtype })
      // Models of the rounds before may be collected meanwhile.
      expect(engineOf(small).liveBuffers).toBeLessThanOrEqual(live)
      const { tensors } = parseSafetensors(files.files.get("model.safetensors") as Uint8Array)
      const stored = tensors.get("model.norm.weight")
      expect(stored?.dtype).toBe(dtype.toUpperCase())
      expect(stored?.data[63]).toBe({ f32: 2.5, bf16: 0x4020, f16: 0x4100 }[dtype])
      const config = JSON.parse(new TextDecoder().decode(files.files.get("config.json")))
      expect(config.dtype).toBe({ f32: "float32", bf16: "bfloat16", f16: "float16" }[dtype])
      const again = await logitsOf(await loadCausalLM(files, { backend: small }), input)
      const difference = Math.max(...(await logitsOf(full, input)).map((x, i) => Math.abs(x - (again[i] as number))))
      expect(difference).toBeLessThan({ f32: 1e-9, bf16: 0.1, f16: 0.02 }[dtype])
    }
  })

  test("to a folder, with its tokenizer, and refused with an adapter", async () => {
    const dir = await mkdtemp(join(tmpdir(), "peftjs-"))
    try {
      const model = await node.loadCausalLM(folder("models/llama"), { backend })
      await node.saveModel(model, dir, { copyFrom: folder("tokenizers/chatml") })
      const again = await node.loadCausalLM(dir, { backend })
      expect(again.name).toBe(dir)
      expect(again.tokenizer?.encode("Hello")).toEqual(
        (await node.loadTokenizer(folder("tokenizers/chatml"))).encode("Hello"),
      )
      const adapter = { name: "default" } as (typeof model.view.adapters)[number]
      const adapted = { ...model, view: { ...model.view, adapters: [adapter] } }
      await expect(saveModel(adapted, memoryFiles())).rejects.toThrow(/adapter "default".*E_UNMERGED/)
    } finally {
      await rm(dir, { recursive: true })
    }
  })
})

test("a large model is written in shards with an index, and loads again", async () => {
  const model = await node.loadCausalLM(folder("models/llama"), { backend })
  const files = memoryFiles()
  await saveModel(model, files, { maxShardBytes: 100_000 })
  const names = (await files.list()).filter((name) => name.endsWith(".safetensors"))
  expect(names.length).toBeGreaterThan(3)
  expect(names[0]).toBe(`model-00001-of-0000${names.length}.safetensors`)
  const again = await loadCausalLM(files, { backend })
  expect(await logitsOf(again, input)).toEqual(await logitsOf(model, input))
})
