/** Quantised files that are broken: each is refused by its own error, and nothing stays on the backend. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import { engineOf, type WeightFormat } from "@peftjs/core"
import { loadCausalLM, saveModel } from "@peftjs/models"
import {
  type LazyTensorInput,
  memoryFiles,
  parseSafetensors,
  readText,
  type TensorInput,
  writeSafetensors,
  writeText,
} from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { describe, expect, it } from "vitest"
import { fp4, int8, nf4, qlora } from "../src/index.ts"
import { commonFixture, encoded, fixture } from "./helpers.ts"

const q = "model.layers.1.self_attn.q_proj"
const weights = readFileSync(fixture("bnb/llama-nf4-dq/model.safetensors"))
const config = readFileSync(fixture("bnb/llama-nf4-dq/config.json"))
type Tensors = Map<string, TensorInput>

/** A change of one tensor's elements. */
const changed =
  (name: string, change: (data: never) => void): ((tensors: Tensors) => void) =>
  (tensors) => {
    const tensor = tensors.get(name) as TensorInput
    const data = (tensor.data as Uint8Array).slice()
    change(data as never)
    tensors.set(name, { ...tensor, data })
  }

/** Other text in the state of quantisation. */
const state =
  (from: string | RegExp, to: string): ((tensors: Tensors) => void) =>
  (tensors) => {
    const name = `${q}.weight.quant_state.bitsandbytes__nf4`
    const text = new TextDecoder().decode(tensors.get(name)?.data as Uint8Array).replace(from, to)
    const data = new TextEncoder().encode(text)
    tensors.set(name, { dtype: "U8", shape: [data.length], data })
  }

const shorter =
  (name: string, by: number): ((tensors: Tensors) => void) =>
  (tensors) => {
    const tensor = tensors.get(name) as TensorInput
    const data = (tensor.data as Uint8Array).slice(0, -by)
    tensors.set(name, { ...tensor, data, shape: name.endsWith(".weight") ? [data.length, 1] : [data.length] })
  }

const cases: readonly (readonly [string, (tensors: Tensors) => void, RegExp])[] = [
  ["codes are cut", shorter(`${q}.weight`, 7), /q_proj\.weight: it has 2041 bytes.*2048.*E_QUANT_STATE/],
  ["scales are cut", shorter(`${q}.weight.absmax`, 1), /absmax: it has 63 bytes.*64.*E_QUANT_STATE/],
  [
    "nested scales are missing",
    (t) => t.delete(`${q}.weight.nested_absmax`),
    /nested_absmax: the tensor is missing.*E_QUANT_STATE/,
  ],
  ["the map is missing", (t) => t.delete(`${q}.weight.quant_map`), /quant_map: the tensor is missing.*E_QUANT_STATE/],
  [
    "the map is another's",
    changed(`${q}.weight.quant_map`, (x: Float32Array) => x.reverse()),
    /quant_map holds 1 at 0, the format has -1.*E_QUANT_MAP/,
  ],
  [
    "the map of the scales is another's",
    changed(`${q}.weight.nested_quant_map`, (x: Float32Array) => x.fill(0, 3, 4)),
    /nested_quant_map holds 0 at 3.*E_QUANT_MAP/,
  ],
  [
    "a scale of scales is NaN",
    changed(`${q}.weight.nested_absmax`, (x: Float32Array) => x.fill(Number.NaN)),
    /nested_absmax holds NaN at 0.*E_NOT_FINITE/,
  ],
  ["the state is no JSON", state(/^./, "<"), /is not the JSON of a quantisation state.*E_QUANT_STATE/],
  ["the state is another type's", state('"nf4"', '"fp4"'), /"quant_type" is "fp4"; it must be "nf4".*E_QUANT_STATE/],
  [
    "the shape is another layer's",
    state("[64, 64]", "[32, 128]"),
    /"shape" is \[32,128\]; config\.json makes the layer \[64,64\].*E_QUANT_STATE/,
  ],
  ["the block size is impossible", state('"blocksize": 64', '"blocksize": 0'), /"blocksize" is 0.*E_QUANT_STATE/],
  ["the type is unknown", state("float32", "float8"), /"dtype" is "float8".*E_QUANT_STATE/],
  ["the offset is missing", state(/, "nested_offset": [^}]*/, ""), /"nested_offset" is undefined.*E_QUANT_STATE/],
  [
    "the whole state is missing",
    (t) => t.delete(`${q}.weight.quant_state.bitsandbytes__nf4`),
    /q_proj\.weight is \[2048,1\].*E_WEIGHTS/,
  ],
  [
    "a tensor too many",
    (t) => t.set(`${q}.SCB`, { dtype: "F32", shape: [1], data: new Float32Array(1) }),
    /q_proj\.SCB is unexpected.*E_WEIGHTS/,
  ],
]

async function load(
  change: (tensors: Tensors) => void,
  format: WeightFormat = nf4(),
  bytes: Uint8Array = weights,
): Promise<void> {
  const backend = await cpu()
  const files = memoryFiles([["config.json", config]])
  const tensors: Tensors = new Map(parseSafetensors(bytes).tensors)
  change(tensors)
  await writeSafetensors(files, "model.safetensors", tensors, { format: "pt" })
  try {
    await loadCausalLM(files, { backend, weights: format })
  } finally {
    expect(engineOf(backend).liveBuffers).toBe(0)
  }
}

describe("a folder is refused where", () => {
  it.each(cases)("%s", async (_, change, message) => {
    await expect(load(change)).rejects.toThrow(message)
  })

  it("config.json speaks of another format than its weights are in", async () => {
    const backend = await cpu()
    const said = JSON.parse(new TextDecoder().decode(config))
    const folder = (quantisation: object | undefined, bytes: Uint8Array = weights): ReturnType<typeof memoryFiles> => {
      const values = { ...said, quantization_config: quantisation }
      return memoryFiles([
        ["config.json", new TextEncoder().encode(JSON.stringify(values))],
        ["model.safetensors", bytes],
      ])
    }
    const formats = [nf4(), fp4(), int8()]
    const own = said.quantization_config
    const attempts = [
      [folder(undefined), /is stored as nf4; config\.json says that nothing is quantised.*E_WEIGHTS/],
      [folder({ ...own, bnb_4bit_quant_type: "fp4" }), /is stored as nf4; config\.json says fp4.*E_WEIGHTS/],
      [
        folder({ quant_method: "bitsandbytes", load_in_8bit: true }),
        /stored as nf4; config\.json says int8.*E_WEIGHTS/,
      ],
      [folder({ ...own, bnb_4bit_quant_type: "nf3" }), /bitsandbytes's \(nf3\).*E_CONFIG/],
    ] as const
    for (const [files, message] of attempts)
      await expect(loadCausalLM(files, { backend, formats })).rejects.toThrow(message)
    const dense = memoryFiles()
    await saveModel(await loadCausalLM(nodeFiles(commonFixture("models/llama")), { backend }), dense)
    const live = engineOf(backend).liveBuffers
    const claimed = JSON.parse(await readText(dense, "config.json"))
    await writeText(dense, "config.json", JSON.stringify({ ...claimed, quantization_config: own }))
    await expect(loadCausalLM(dense, { backend, formats })).rejects.toThrow(/says nf4, but no weight.*E_WEIGHTS/)
    expect(engineOf(backend).liveBuffers).toBe(live)
  })

  it("a weight to quantise holds NaN, which is named", async () => {
    const backend = await cpu()
    const files = memoryFiles()
    await saveModel(await loadCausalLM(nodeFiles(commonFixture("models/llama")), { backend }), files)
    const tensors: Tensors = new Map(parseSafetensors(files.files.get("model.safetensors") as Uint8Array).tensors)
    changed(`${q}.weight`, (x: Float32Array) => x.fill(Number.NaN, 9, 10))(tensors)
    await writeSafetensors(files, "model.safetensors", tensors, { format: "pt" })
    for (const weights of [nf4(), int8()])
      await expect(loadCausalLM(files, { backend, weights })).rejects.toThrow(/q_proj\.weight in .*NaN.*E_NOT_FINITE/)
  })

  it("the file is cut", async () => {
    const files = memoryFiles([
      ["config.json", config],
      ["model.safetensors", weights.subarray(0, -100)],
    ])
    await expect(loadCausalLM(files, { backend: await cpu(), weights: nf4() })).rejects.toThrow(/E_SAFETENSORS_SIZE/)
  })

  it("absmax in f32 holds NaN, or int8's scales do, or its codes are of another type", async () => {
    const backend = await cpu()
    const dense = nodeFiles(commonFixture("models/llama"))
    const attempts = [
      [
        nf4(),
        `${q}.weight.absmax`,
        (x: Float32Array) => void x.fill(Number.NaN, 2, 3),
        /absmax holds NaN at 2.*E_NOT_FINITE/,
      ],
      [
        int8(),
        `${q}.SCB`,
        (x: Float32Array) => void x.fill(Number.POSITIVE_INFINITY, 5, 6),
        /SCB holds Infinity at 5.*E_NOT_FINITE/,
      ],
      [int8(), `${q}.weight_format`, (x: Uint8Array) => void x.fill(2), /weight_format: only 0.*E_QUANT_STATE/],
    ] as const
    for (const [format, name, change, message] of attempts) {
      const files = memoryFiles()
      await saveModel(await loadCausalLM(dense, { backend, weights: format }), files)
      const tensors: Map<string, LazyTensorInput> = new Map(
        parseSafetensors(files.files.get("model.safetensors") as Uint8Array).tensors,
      )
      changed(name, change as never)(tensors as Tensors)
      await writeSafetensors(files, "model.safetensors", tensors, { format: "pt" })
      await expect(loadCausalLM(files, { backend, weights: format })).rejects.toThrow(message)
    }
  })
})

describe("quantising refuses", () => {
  const shape = [2, 64] as const
  it.each([
    ["nf4", nf4()],
    ["fp4", fp4({ doubleQuant: true })],
    ["int8", int8()],
  ])("NaN, infinities and the wrong number of rows: %s", async (_, format) => {
    for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY])
      await expect(encoded(format, new Float32Array(128).fill(bad, 70, 71), shape)).rejects.toThrow(/E_NOT_FINITE/)
    await expect(encoded(format, new Float32Array(64), shape)).rejects.toThrow(/E_SHAPE/)
    await expect(encoded(format, new Float32Array(192), shape)).rejects.toThrow(/E_SHAPE/)
  })

  it("options that there are not", () => {
    expect(() => nf4({ blockSize: 48 })).toThrow(/blockSize must be one of 32, 64.*not 48.*E_OPTION/)
    expect(() => qlora({ type: "int4" as never })).toThrow(/E_OPTION/)
    expect(() => qlora({ rank: 4 } as never)).toThrow(/there is no option "rank".*E_OPTION/)
  })

  it("backends that cannot hold bytes", async () => {
    const backend = await cpu()
    const none = { ...backend, supports: { ...backend.supports, dtypes: ["f32", "i32", "u32"] as const } }
    await expect(encoded(nf4(), new Float32Array(128), shape, { backend: none })).rejects.toThrow(
      /needs u8.*E_UNSUPPORTED/,
    )
  })
})
