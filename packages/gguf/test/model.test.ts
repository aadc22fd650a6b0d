/** Whole models: a GGUF file is the model it was made of, its packed matrices what their bytes stand for, and adapters over it are PEFT's. */
import { cpu } from "@peftjs/backend-cpu"
import { adapt, free, isTensor, type Model, saveAdapter, type Weight } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM, saveModel } from "@peftjs/models"
import { type ByteSource, bytes, memoryFiles, parseSafetensors, readText } from "@peftjs/safetensors"
import { jsonl, train } from "@peftjs/train"
import { describe, expect, it } from "vitest"
import { ggufFiles, ggufFormats } from "../src/index.ts"
import { packedAs, valuesOf } from "./pack.ts"
import { config, dense, type Encode, folder, metadata, tensorsOf, tinyGguf } from "./tiny.ts"
import { ggufBytes } from "./writer.ts"

const backend = await cpu()
const load = (file: Uint8Array | ByteSource): Promise<Model> => {
  const source = file instanceof Uint8Array ? bytes("tiny.gguf", file) : file
  return loadCausalLM(ggufFiles(source), { backend, formats: ggufFormats })
}
const loadFolder = async (over: object = {}): Promise<Model> => loadCausalLM(await folder(over), { backend })

async function logitsOf(model: Model): Promise<Float32Array> {
  const out = model.forward({ ids: Int32Array.from({ length: 12 }, (_, i) => (7 * i) % 64), batch: 1, tokens: 12 })
  const data = (await out.data()) as Float32Array
  free(out)
  return data
}

const apart = (a: Float32Array, b: Float32Array): number =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] as number))), 0)

const formatsOf = ({ params }: Model): Record<string, string> =>
  Object.fromEntries(
    [...params].flatMap(([path, value]) => (isTensor(value) ? [] : [[path, (value as Weight).format]])),
  )

describe("dense values", () => {
  it("F32: the same model as the folder, names, rows of queries and keys, logits and all", async () => {
    const [ours, theirs] = [await load(await tinyGguf()), await loadFolder()]
    expect([...ours.params.keys()]).toEqual([...theirs.params.keys()])
    expect([...ours.sites.keys()]).toEqual([...theirs.sites.keys()])
    expect(await logitsOf(ours)).toEqual(await logitsOf(theirs))
  })
  it.each(["F16", "BF16"] as const)("%s: the values rounded to it", async (type) => {
    const [ours, theirs] = [await load(await tinyGguf(dense(type))), await loadFolder()]
    expect(formatsOf(ours)["model.layers.1.mlp.up_proj.weight"]).toBe(type.toLowerCase())
    const difference = apart(await logitsOf(ours), await logitsOf(theirs))
    expect(difference).toBeLessThan(type === "F16" ? 0.05 : 0.4)
    expect(difference).toBeGreaterThan(1e-6)
  })
  it("a head of its own, biases, one rotary turn for all of Llama 2: what the file has decides", async () => {
    const over = { tie_word_embeddings: false, attention_bias: true }
    const files = await folder(over)
    const tensors = tensorsOf(files, dense("F32"))
    for (const name of ["attn_q", "attn_k", "attn_v", "attn_output"])
      for (const layer of [0, 1]) expect(Object.keys(tensors)).toContain(`blk.${layer}.${name}.bias`)
    expect(Object.keys(tensors)).toContain("output.weight")
    expect(await logitsOf(await load(ggufBytes(metadata, tensors)))).toEqual(await logitsOf(await loadFolder(over)))
  })
  it.each(["qwen2", "qwen3"])("%s: rows stand as they are", async (architecture) => {
    const own = Object.fromEntries(
      Object.entries(metadata).map(([key, value]) => [key.replace("llama.", `${architecture}.`), value]),
    )
    const tensors = tensorsOf(await folder({ model_type: architecture }), dense("F32"), false)
    const file = ggufBytes({ ...own, "general.architecture": architecture }, tensors)
    const ours = await load(file)
    expect(ours.config.model_type).toBe(architecture)
    expect(await logitsOf(ours)).toEqual(await logitsOf(await loadFolder({ model_type: architecture })))
  })
})

describe.each(["Q4_0", "Q4_1", "Q8_0"] as const)("%s", (kind) => {
  const unpacked: Encode = (name, values, shape) => {
    const { data } = packedAs(kind)(name, values, shape) as { data: Uint8Array }
    return dense("F32")(name, valuesOf(kind, data), shape)
  }
  it("is read as it is packed, and computes what its bytes stand for", async () => {
    const [packed, plain] = [await load(await tinyGguf(packedAs(kind))), await load(await tinyGguf(unpacked))]
    expect(new Set(Object.values(formatsOf(packed)))).toEqual(new Set([kind.toLowerCase()]))
    expect(packed.config.quantization_config).toEqual({ quant_method: "gguf" })
    const [a, b] = [await logitsOf(packed), await logitsOf(plain)]
    expect(apart(a, b)).toBeLessThan(1e-3 * b.reduce((most, x) => Math.max(most, Math.abs(x)), 0))
    expect(apart(b, await logitsOf(await loadFolder()))).toBeGreaterThan(0.01)
  })
})

const mixed: Encode = (name, values, shape) =>
  packedAs(name.includes("embed_tokens") ? "Q8_0" : name.includes("down_proj") ? "Q4_0" : "Q4_1")(name, values, shape)

it("a file mixes kinds", async () => {
  const formats = formatsOf(await load(await tinyGguf(mixed)))
  expect(formats["model.embed_tokens.weight"]).toBe("q8_0")
  expect(formats["model.layers.0.mlp.down_proj.weight"]).toBe("q4_0")
  expect(formats["model.layers.0.self_attn.q_proj.weight"]).toBe("q4_1")
})

it("an adapter over it learns, and is called and shaped as over the folder", async () => {
  const model = adapt(await load(await tinyGguf(mixed)), lora({ r: 4 }), { targetModules: "all-linear" })
  const ids = [1, 2, 3, 4, 5, 6, 7, 8]
  const losses: number[] = []
  await train(model, jsonl([{ input_ids: ids, labels: ids }], "rows"), {
    ...{ maxSteps: 10, batchSize: 1, learningRate: 0.02 },
    onStep: ({ loss }) => void losses.push(loss),
  })
  expect(losses.at(-1)).toBeLessThan(0.7 * (losses[0] as number))
  const [ours, theirs] = [memoryFiles(), memoryFiles()]
  await saveAdapter(model, ours)
  await saveAdapter(adapt(await loadFolder(), lora({ r: 4 }), { targetModules: "all-linear" }), theirs)
  const shapes = (files: typeof ours): object =>
    Object.fromEntries(
      [...parseSafetensors(files.files.get("adapter_model.safetensors") as Uint8Array).tensors].map(
        ([name, { shape }]) => [name, shape],
      ),
    )
  expect(shapes(ours)).toEqual(shapes(theirs))
})

it("is saved as a dense folder that is the same model", async () => {
  const packed = await load(await tinyGguf(mixed))
  const files = memoryFiles()
  await saveModel(packed, files)
  const { quantization_config: _, ...plain } = packed.config
  expect(JSON.parse(await readText(files, "config.json"))).toEqual({ ...plain, dtype: "float32" })
  const again = await loadCausalLM(files, { backend })
  expect(apart(await logitsOf(packed), await logitsOf(again))).toBeLessThan(1e-3)
})

it("is read in ranges: never more than one tensor, beside its header", async () => {
  const data = await tinyGguf(mixed)
  const asked: number[] = []
  const source = {
    ...{ name: "tiny.gguf", size: data.length },
    read: async (start: number, end: number) => {
      asked.push(end - start)
      return data.subarray(start, end)
    },
  }
  const files = ggufFiles(source)
  await files.has("config.json")
  asked.length = 0
  const { tensors } = parseSafetensors(await wholeOf(files.open("model.safetensors")))
  const largest = Math.max(...[...tensors.values()].map(({ data: { byteLength } }) => byteLength))
  asked.length = 0
  await loadCausalLM(files, { backend, formats: ggufFormats })
  expect(Math.max(...asked)).toBeLessThanOrEqual(largest)
})

const wholeOf = async (file: Promise<ByteSource>): Promise<Uint8Array> => (await file).read(0, (await file).size)

describe("the configuration", () => {
  const configOf = async (
    over: object,
    more: Parameters<typeof ggufBytes>[1] = {},
  ): Promise<Record<string, unknown>> => {
    const file = ggufBytes({ ...metadata, ...over }, { ...tensorsOf(await folder(), dense("F32")), ...more })
    return JSON.parse(await readText(ggufFiles(bytes("tiny.gguf", file)), "config.json"))
  }
  it("is what transformers would be told", async () => {
    const { initializer_range: _, ...expected } = config
    expect(await configOf({ "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.padding_token_id": 2n })).toEqual({
      ...expected,
      ...{ architectures: ["LlamaForCausalLM"], hidden_act: "silu", attention_bias: false, mlp_bias: false },
      ...{ bos_token_id: 1, pad_token_id: 2, dtype: "float32" },
    })
  })
  it("has linear scaling, as new files and old ones say it", async () => {
    const scaling = { rope_type: "linear", factor: 2.5 }
    const over = { "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5 }
    expect((await configOf(over)).rope_scaling).toEqual(scaling)
    expect((await configOf({ "llama.rope.scale_linear": 2.5 })).rope_scaling).toEqual(scaling)
  })
  it("finds the parameters of Llama 3 in the factors it leaves", async () => {
    // rope_type "llama3", factor 8, low 1, high 4, 8192 positions, theta 500000, 64 dimensions: by convert_hf_to_gguf.py.
    const factors = Float32Array.from({ length: 8 }, (_, i) => {
      const wavelength = (2 * Math.PI) / 500_000 ** ((-2 * i) / 16)
      if (wavelength < 8192 / 4) return 1
      if (wavelength > 8192) return 8
      const smooth = (8192 / wavelength - 1) / (4 - 1)
      return 1 / ((1 - smooth) / 8 + smooth)
    })
    const written = { type: 0, shape: [8], data: new Uint8Array(factors.buffer) }
    const over = { "llama.rope.freq_base": 500_000.5 }
    const found = await configOf(over, { "rope_freqs.weight": written })
    expect(found.rope_scaling).toEqual({
      ...{ rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
      original_max_position_embeddings: 8192,
    })
    factors[4] = 3
    await expect(configOf(over, { "rope_freqs.weight": written })).rejects.toMatchObject({ code: "E_CONFIG" })
  })
})
