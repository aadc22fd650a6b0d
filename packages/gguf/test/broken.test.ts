/** Files that are damaged, of another kind, or of a model that is not supported: a clear error each, and nothing stays on the backend. */
import { cpu } from "@peftjs/backend-cpu"
import type { Backend } from "@peftjs/core"
import { loadCausalLM } from "@peftjs/models"
import { bytes } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { checkScales, ggufFiles, ggufFormats, openGguf } from "../src/index.ts"
import { packedAs } from "./pack.ts"
import { dense, folder, metadata, tensorsOf, tinyGguf } from "./tiny.ts"
import { ggufBytes, type Written } from "./writer.ts"

const backend: Backend = await cpu()
const load = (file: Uint8Array, options: object = { formats: ggufFormats }): Promise<unknown> =>
  loadCausalLM(ggufFiles(bytes("tiny.gguf", file)), { backend, ...options })
const refused = (code: string, message: RegExp): object => ({ code, message: expect.stringMatching(message) })

const whole = await tinyGguf(packedAs("Q4_1"))
const tensors = tensorsOf(await folder(), packedAs("Q4_1"))
const withTensor = (name: string, over: Partial<Written>): Uint8Array =>
  ggufBytes(metadata, { ...tensors, [name]: { ...(tensors[name] as Written), ...over } })

describe("the file", () => {
  it.each([
    ["nothing", 0, /does not begin with "GGUF"/],
    ["three bytes", 3, /does not begin with "GGUF"/],
    ["the first bytes", 20, /cut off|cannot be read/],
    ["half a header", 300, /cut off/],
    ["all but the last tensor", -1, /cut off; fetch it again/],
  ])("cut off after %s", async (_, size, message) => {
    await expect(load(whole.slice(0, size === -1 ? whole.length - 100 : size))).rejects.toMatchObject(
      refused("E_GGUF", message),
    )
  })
  it("of another kind", async () => {
    await expect(load(ggufBytes(metadata, tensors, { magic: "GGML" }))).rejects.toMatchObject(
      refused("E_GGUF", /does not begin with "GGUF"/),
    )
  })
  it("of an unknown version", async () => {
    await expect(load(ggufBytes(metadata, tensors, { version: 9 }))).rejects.toMatchObject(
      refused("E_GGUF", /unsupported version "9"/),
    )
  })
  it("that claims more tensors than it has", async () => {
    const file = ggufBytes(metadata, tensors, { tensorCount: 5000 })
    await expect(load(file)).rejects.toMatchObject({ code: expect.stringMatching(/^E_GGUF/) })
  })
  it("that is a part of several", async () => {
    await expect(load(await tinyGguf(undefined, { "split.count": 3 }))).rejects.toMatchObject(
      refused("E_GGUF", /one of several parts/),
    )
  })
  it("whose source fails: its own error", async () => {
    const source = {
      name: "tiny.gguf",
      size: whole.length,
      read: () => Promise.reject(new Error("the network is gone")),
    }
    await expect(loadCausalLM(ggufFiles(source), { backend, formats: ggufFormats })).rejects.toThrow("network is gone")
  })
})

describe("tensors", () => {
  it.each([
    [14, "Q6_K"],
    [99, "type 99"],
  ])("of type %i are named, with what is supported", async (type, name) => {
    await expect(load(withTensor("blk.0.ffn_up.weight", { type }))).rejects.toMatchObject(
      refused(
        "E_GGUF_TYPE",
        new RegExp(`blk.0.ffn_up.weight \\(${name}\\); supported are F32, F16, BF16, Q4_0, Q4_1, Q8_0`),
      ),
    )
  })
  it("of another shape", async () => {
    const up = tensors["blk.0.ffn_up.weight"] as Written
    await expect(load(withTensor("blk.0.ffn_up.weight", { shape: [48, 128] }))).rejects.toMatchObject(
      refused("E_QUANT_STATE", /mlp.up_proj.weight is \[48,128\] in Q4_1, .* makes the layer \[96,64\]/),
    )
    await expect(load(withTensor("blk.0.ffn_up.weight", { shape: [95, 64] }))).rejects.toMatchObject({
      code: "E_QUANT_STATE",
    })
    expect(up.shape).toEqual([96, 64])
    const plain = ggufBytes(metadata, {
      ...tensorsOf(await folder(), dense("F32")),
      "blk.0.ffn_up.weight": { type: 0, shape: [64, 96], data: new Uint8Array(64 * 96 * 4) },
    })
    await expect(load(plain)).rejects.toMatchObject(refused("E_WEIGHTS", /up_proj.weight is \[64,96\]/))
  })
  it("whose rows are no whole blocks", async () => {
    await expect(load(withTensor("blk.0.ffn_up.weight", { shape: [128, 48] }))).rejects.toMatchObject(
      refused("E_GGUF", /rows are not blocks of 32/),
    )
  })
  it("that are missing", async () => {
    const { "blk.1.attn_v.weight": _, ...rest } = tensors
    await expect(load(ggufBytes(metadata, rest))).rejects.toMatchObject(
      refused("E_WEIGHTS", /model.layers.1.self_attn.v_proj.weight is missing/),
    )
  })
  it("that no Llama has", async () => {
    const more = { ...tensors, "blk.0.ffn_gate_exps.weight": tensors["blk.0.ffn_up.weight"] as Written }
    await expect(load(ggufBytes(metadata, more))).rejects.toMatchObject(refused("E_WEIGHTS", /ffn_gate_exps/))
  })
  it.each([
    ["scale", 0],
    ["minimum", 2],
  ])("with NaN as a %s", async (what, at) => {
    const up = tensors["blk.1.ffn_up.weight"] as Written
    const data = up.data.slice()
    data.set([0, 0x7e], 40 + at)
    const file = withTensor("blk.1.ffn_up.weight", { data })
    const message = new RegExp(`up.*weight: the ${what} of block 2 \\(Q4_1\\) is NaN`)
    await expect(load(file)).rejects.toMatchObject(refused("E_NOT_FINITE", message))
    await expect(checkScales(await openGguf(bytes("tiny.gguf", file)))).rejects.toMatchObject(
      refused("E_NOT_FINITE", message),
    )
    await expect(checkScales(await openGguf(bytes("tiny.gguf", whole)))).resolves.toBeUndefined()
  })
})

describe("the model", () => {
  it.each([
    [
      "another architecture",
      { "general.architecture": "gemma3" },
      "E_MODEL",
      /"gemma3"; supported are llama, qwen2, qwen3/,
    ],
    ["experts", { "llama.expert_count": 8 }, "E_CONFIG", /expert_count is 8; a mixture of experts/],
    ["a window", { "llama.attention.sliding_window": 64 }, "E_CONFIG", /sliding_window is 64/],
    ["values of another length", { "llama.attention.value_length": 8 }, "E_CONFIG", /value_length is 8/],
    ["partly turned heads", { "llama.rope.dimension_count": 8 }, "E_CONFIG", /partial_rotary_factor/],
    [
      "another scaling",
      { "llama.rope.scaling.type": "yarn" },
      "E_CONFIG",
      /"yarn".*supported are default, linear, llama3/,
    ],
    ["a missing key", { "llama.block_count": "two" }, "E_CONFIG", /num_hidden_layers/],
  ])("%s", async (_, over, code, message) => {
    await expect(load(await tinyGguf(undefined, over))).rejects.toMatchObject(refused(code, message))
  })
  it("packed, without formats or with another", async () => {
    await expect(load(whole, {})).rejects.toMatchObject(refused("E_CONFIG", /gguf's; give .*ggufFormats/))
    const [format] = ggufFormats
    await expect(load(whole, { weights: format, formats: ggufFormats })).rejects.toMatchObject(
      refused("E_CONFIG", /q4_0 was asked for/),
    )
  })
})

it("a failure forgets what was read", async () => {
  const data = whole.slice()
  data[0] = 0
  const files = ggufFiles(bytes("tiny.gguf", data))
  await expect(files.has("config.json")).rejects.toMatchObject({ code: "E_GGUF" })
  data[0] = "G".charCodeAt(0)
  expect(await files.has("config.json")).toBe(true)
})
