/** What a method leaves of a packed base is packed as the base is: of encoded weights and of a file's. */
import { cpu } from "@peftjs/backend-cpu"
import { testAdapter } from "@peftjs/conformance"
import {
  type AdapterMethod,
  adaptAsync,
  adapterOf,
  detach,
  engineOf,
  hostValues,
  normals,
  storedLike,
  type Weight,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models"
import { bytes } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { ggufFiles, ggufFormats, q4_0, q4_1, q8_0 } from "../src/index.ts"
import { weights } from "./formats.ts"
import { packedAs } from "./pack.ts"
import { tinyGguf } from "./tiny.ts"

const backend = await cpu()
const engine = engineOf(backend)
const values = (weight: Weight): Promise<Float32Array> => hostValues(engine, weight)
async function* whole(rows: Float32Array): AsyncGenerator<Float32Array> {
  yield rows
}

/** LoRA over nine tenths of the base; not saved. */
const { format: _, ...plain } = lora({ r: 1, alpha: 1 })
const left: AdapterMethod = {
  ...plain,
  name: "left",
  prepare: ({ values }) => ({ start: {}, residual: values.map((x) => x * 0.9) }),
}

describe.each([
  ["Q4_0", q4_0()],
  ["Q4_1", q4_1()],
  ["Q8_0", q8_0()],
] as const)("%s", (kind, format) => {
  it("stores other values as it is stored, again and again", async () => {
    const shape = [6, 32] as const
    const [first, other] = [normals([1, 2], 192, 1), normals([3, 4], 192, 2)]
    const weight = await format.encode(backend, shape, whole(first))
    const direct = await format.encode(backend, shape, whole(other))
    const alike = await storedLike(backend, weight, other)
    const again = await storedLike(backend, alike, first)
    expect([alike.format, alike.bytes, again.format]).toEqual([weight.format, weight.bytes, weight.format])
    expect(await values(alike)).toEqual(await values(direct))
    expect(await values(again)).toEqual(await values(weight))
    for (const one of [weight, direct, alike, again]) one.free()
  })

  it("stays packed in the base's place over a file, and goes without a trace", async () => {
    const source = bytes("tiny.gguf", await tinyGguf(packedAs(kind)))
    const model = await loadCausalLM(ggufFiles(source), { backend, formats: ggufFormats })
    const before = engine.liveBuffers
    const view = await adaptAsync(model, left, { targetModules: ["q_proj", "down_proj"] })
    for (const [path, { base }] of adapterOf(view).sites) {
      const own = model.sites.get(path)?.base as Weight
      expect([base?.format, base?.bytes]).toEqual([own.format, own.bytes])
      const expected = await format.encode(backend, own.shape, whole((await values(own)).map((x) => x * 0.9)))
      expect(await values(base as Weight)).toEqual(await values(expected))
      expected.free()
    }
    detach(view)
    expect(engine.liveBuffers).toBe(before)
  })
})

testAdapter(left, {
  describe,
  it,
  name: "LoRA over a residual",
  identity: false,
  weights,
  backends: { cpu: () => backend },
})
