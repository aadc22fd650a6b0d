/** What loading refuses, and how it says so; what types it keeps; that nothing stays behind. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import type { Backend } from "@peftjs/core"
import { engineOf } from "@peftjs/core"
import type { MemoryFiles, TensorInput } from "@peftjs/safetensors"
import { fromFloat32, memoryFiles, parseSafetensors, serializeSafetensors } from "@peftjs/safetensors"
import { beforeAll, describe, expect, test } from "vitest"
import { loadCausalLM } from "../src/index.ts"
import { loadCausalLM as loadFolder } from "../src/node.ts"
import { folder, json, logitsOf } from "./fixtures.ts"

let backend: Backend
beforeAll(async () => {
  backend = await cpu({ kernels: "reference" })
})

const weights = readFileSync(folder("models/llama/model.safetensors"))
const config = json("models/llama/config.json")
const text = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value))
const files = (given: unknown, data: Uint8Array = weights): MemoryFiles =>
  memoryFiles(
    [
      ["config.json", text(given)],
      ["model.safetensors", data],
    ],
    "folder",
  )

type Change = (tensors: Map<string, TensorInput>) => void
function changed(change: Change): Uint8Array {
  const tensors = new Map<string, TensorInput>(parseSafetensors(weights).tensors)
  change(tensors)
  return serializeSafetensors(tensors)
}
const tensor = (...shape: number[]): TensorInput => ({
  dtype: "F32",
  shape,
  data: new Float32Array(shape.reduce((a, b) => a * b)),
})
const q = "model.layers.0.self_attn.q_proj.weight"

describe("weights that do not fit", () => {
  const cases: [string, Change, RegExp][] = [
    ["missing", (t) => t.delete(q), /q_proj\.weight is missing.*E_WEIGHTS/],
    [
      "another shape",
      (t) => t.set(q, tensor(63, 64)),
      /q_proj\.weight is \[63,64\], config\.json makes it \[64,64\].*E_WEIGHTS/,
    ],
    ["unexpected", (t) => t.set("model.layers.0.extra", tensor(1)), /layers\.0\.extra is unexpected.*E_WEIGHTS/],
    ["no float", (t) => t.set(q, { dtype: "I8", shape: [64, 64], data: new Int8Array(4096) }), /is I8.*E_WEIGHTS/],
    ["many", (t) => t.clear(), /is missing.*; and 18 more.*E_WEIGHTS/],
  ]
  test.each(cases)("%s", async (_, change, message) => {
    await expect(loadCausalLM(files(config, changed(change)), { backend })).rejects.toThrow(message)
  })

  test("rotary buffers of old files and the copy of a tied head are passed over", async () => {
    const old = changed((t) => t.set("model.layers.0.self_attn.rotary_emb.inv_freq", tensor(8)))
    await loadCausalLM(files(config, old), { backend })
    const tied = { ...config, tie_word_embeddings: true }
    const model = await loadCausalLM(files(tied), { backend })
    expect(model.params.has("lm_head.weight")).toBe(false)
  })

  test("truncated files", async () => {
    for (const length of [0, 7, 200, weights.length - 1]) {
      const loading = loadCausalLM(files(config, weights.subarray(0, length)), { backend })
      await expect(loading).rejects.toMatchObject({ code: expect.stringMatching(/^E_SAFETENSORS_/) })
    }
  })

  test("no weights, no folder", async () => {
    const nothing = memoryFiles([["config.json", text(config)]])
    await expect(loadCausalLM(nothing, { backend })).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND" })
    await expect(loadFolder("does-not-exist", { backend })).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND" })
  })

  test("a read that fails halfway leaves nothing on the backend", async () => {
    const whole = files(config)
    let reads = 0
    const failing = {
      ...whole,
      open: async (path: string) => {
        const file = await whole.open(path)
        const read = (start: number, end: number) =>
          ++reads > 9 ? Promise.reject(new Error("gone")) : file.read(start, end)
        return { name: file.name, size: file.size, read }
      },
    }
    const empty = await cpu({ kernels: "reference" })
    await expect(loadCausalLM(failing, { backend: empty })).rejects.toThrow("gone")
    expect(reads).toBe(10)
    expect(engineOf(empty).liveBuffers).toBe(0)
  })
})

describe("config.json", () => {
  const broken: [string, string, RegExp][] = [
    ["a letter", '{\n  "model_type": "llama",\n  "vocab_size": x\n}', /config\.json, line 3, column 17:.*E_JSON/],
    ["a comma too many", '{\n  "a": 1,\n}', /line 3, column 1:.*E_JSON/],
    ["a comma missing", '{\n  "a": [1 2]\n}', /line 2, column 11:.*E_JSON/],
    ["cut off", '{\n  "a": {\n "b": "c', /line 3, column 7:.*E_JSON/],
    ["more after the end", "{}\n\n}", /line 3, column 1:.*E_JSON/],
    ["empty", "", /line 1, column 1:.*E_JSON/],
    ["no object", "[1]", /must hold a JSON object.*E_CONFIG/],
  ]
  test.each(broken)("%s", async (_, given, message) => {
    await expect(loadCausalLM(files(given), { backend })).rejects.toThrow(message)
  })

  const wrong: [object, RegExp][] = [
    [{ model_type: "mamba" }, /model_type "mamba" is not known; known are "gpt2", "llama".*E_MODEL/],
    [{ model_type: null }, /"model_type" is null; it must be a string.*E_CONFIG/],
    [{ hidden_size: undefined }, /"hidden_size" is missing; it must be a whole number.*E_CONFIG/],
    [{ num_hidden_layers: 0 }, /"num_hidden_layers" is 0;.*E_CONFIG/],
    [{ hidden_size: 66 }, /"hidden_size" is 66; it must be a multiple of num_attention_heads, 4.*E_CONFIG/],
    [{ num_key_value_heads: 3 }, /"num_key_value_heads" is 3; it must divide.*E_CONFIG/],
    [{ head_dim: 15 }, /"head_dim" is 15.*even.*E_CONFIG/],
    [{ rms_norm_eps: "1e-5" }, /"rms_norm_eps" is "1e-5"; it must be a number above 0.*E_CONFIG/],
    [{ tie_word_embeddings: 1 }, /"tie_word_embeddings" is 1; it must be true or false.*E_CONFIG/],
    [{ hidden_act: "gelu" }, /"hidden_act" is "gelu"; only "silu".*E_CONFIG/],
    [{ rope_scaling: { rope_type: "yarn" } }, /rope_type" is "yarn"; supported are default, linear, llama3.*E_CONFIG/],
    [{ rope_scaling: { type: "linear" } }, /"factor" is missing.*E_CONFIG/],
    [{ rope_scaling: [] }, /"rope_scaling" must hold a JSON object.*E_CONFIG/],
    [{ quantization_config: { quant_method: "gptq" } }, /"quantization_config" is.*E_CONFIG/],
  ]
  test.each(wrong)("%j", async (values, message) => {
    await expect(loadCausalLM(files({ ...config, ...values }), { backend })).rejects.toThrow(message)
  })
})

test.each(["BF16", "F16", "F64"] as const)(
  "%s weights: matrices as stored where the backend can, vectors f32",
  async (dtype) => {
    const narrow = changed((tensors) => {
      for (const [name, { shape, data }] of tensors) {
        const values = data as Float32Array
        const stored = dtype === "F64" ? Float64Array.from(values) : fromFloat32(dtype, values)
        tensors.set(name, { dtype, shape, data: stored })
      }
    })
    const { supports } = backend
    const f32only = { ...backend, supports: { ...supports, dtypes: ["f32", "i32", "u32"] as const } }
    const [kept, widened] = [
      await loadCausalLM(files(config, narrow), { backend }),
      await loadCausalLM(files(config, narrow), { backend: f32only }),
    ]
    const formats = (model: typeof kept) => new Set([...model.sites.values()].map((site) => site.base.format))
    expect(formats(kept)).toEqual(new Set([dtype === "F64" ? "f32" : dtype.toLowerCase()]))
    expect(formats(widened)).toEqual(new Set(["f32"]))
    expect(kept.params.get("model.norm.weight")).toMatchObject({ dtype: "f32" })
    const input = { ids: Int32Array.of(1, 5, 9), batch: 1, tokens: 3 }
    expect(await logitsOf(kept, input)).toEqual(await logitsOf(widened, input))
  },
)
