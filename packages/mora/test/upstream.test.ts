/** The layout of the published code as it really is, M twice: read as it stands, and written when asked for. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import { adapt, adapterOf, free, isPeftError, loadAdapter, type Model, saveAdapter } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { memoryFiles, parseSafetensors, readText, writeSafetensors } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { describe, expect, it } from "vitest"
import { mora, upstreamLayout } from "../src/index.ts"
import { commonFixture, fixture, largest, tensorsOf } from "./helpers.ts"

const llama = await loadCausalLM(commonFixture("models/llama"), { backend: await cpu({ kernels: "reference" }) })
const ids = Int32Array.from(tensorsOf(commonFixture("models/llama/inputs.safetensors")).get("input_ids") ?? [])
const methods = [lora, mora]
async function logitsOf(model: Model): Promise<Float32Array> {
  const out = model.forward({ ids, batch: 2, tokens: 12 })
  const data = (await out.data()) as Float32Array
  free(out)
  return data
}
const weights = (data: Uint8Array) => parseSafetensors(data).tensors

describe.each(["llama-type1", "llama-type6"])("%s", (name) => {
  const files = nodeFiles(fixture(name))
  const original = weights(readFileSync(fixture(`${name}/adapter_model.safetensors`)))
  const config = JSON.parse(readFileSync(fixture(`${name}/adapter_config.json`), "utf8"))

  it("loads as it is, and is written as it was", async () => {
    const { model, report } = await loadAdapter(llama, files, { methods })
    expect(report).toMatchObject({ peftType: "LORA", missing: [], unexpected: [] })
    const wanted = tensorsOf(fixture(`${name}/expected.safetensors`)).get("plain.logits") ?? []
    expect(largest(await logitsOf(model), wanted)).toBeLessThan(1e-4)
    const out = memoryFiles()
    await saveAdapter(model, out)
    expect(JSON.parse(await readText(out, "adapter_config.json"))).toEqual(config)
    const source = await out.open("adapter_model.safetensors")
    const written = weights(await source.read(0, source.size))
    expect([...written.keys()].sort()).toEqual([...original.keys()].sort())
    for (const [key, { data }] of written) expect(data, key).toEqual(original.get(key)?.data)
  })

  it("goes over to our own layout and back", async () => {
    const { model } = await loadAdapter(llama, files, { methods })
    const [own, back] = [memoryFiles(), memoryFiles()]
    await saveAdapter(model, own, { format: mora.format as NonNullable<typeof mora.format> })
    expect(JSON.parse(await readText(own, "adapter_config.json"))).toMatchObject({ peft_type: "MORA" })
    const { model: again } = await loadAdapter(llama, own, { methods })
    expect(await logitsOf(again)).toEqual(await logitsOf(model))
    await saveAdapter(again, back, { format: upstreamLayout })
    const written = JSON.parse(await readText(back, "adapter_config.json"))
    // That code's LoraConfig takes these keys and no others.
    expect(Object.keys(written).sort()).toEqual(Object.keys(config).sort())
    expect(written).toMatchObject({ peft_type: "LORA", use_mora: true, mora_type: config.mora_type, r: config.r })
    expect(await logitsOf((await loadAdapter(llama, back, { methods })).model)).toEqual(await logitsOf(model))
  })

  it.each([
    ["of other values", (data: Float32Array) => data.map((x, i) => (i === 3 ? x + 1e-3 : x))],
    ["of NaN", (data: Float32Array) => data.map(() => Number.NaN)],
  ])("a second matrix %s is refused", async (_, change) => {
    const folder = memoryFiles()
    const [key] = [...original.keys()].filter((k) => k.includes("lora_B"))
    const tensors = [...original].map(([k, t]) =>
      k === key ? ([k, { ...t, data: change(Float32Array.from(t.data as Float32Array)) }] as const) : ([k, t] as const),
    )
    await writeSafetensors(folder, "adapter_model.safetensors", tensors, { format: "pt" })
    await folder.write("adapter_config.json", [new TextEncoder().encode(JSON.stringify(config))])
    const failed = await loadAdapter(llama, folder, { methods }).catch((error: unknown) => error)
    expect(isPeftError(failed) && failed.code).toBe("E_ADAPTER_COPY")
  })

  it("another r is refused: the matrix has the size that r says", async () => {
    const folder = memoryFiles()
    await folder.write("adapter_model.safetensors", [readFileSync(fixture(`${name}/adapter_model.safetensors`))])
    await folder.write("adapter_config.json", [
      new TextEncoder().encode(JSON.stringify({ ...config, r: config.r + 1 })),
    ])
    const failed = await loadAdapter(llama, folder, { methods }).catch((error: unknown) => error)
    expect(isPeftError(failed) && failed.code).toBe("E_ADAPTER_SHAPE")
  })
})

it.each([{ use_dora: true }, { init_lora_weights: "pissa" }, { loftq_config: { loftq_bits: 4 } }])(
  "with %j it is refused",
  async (change) => {
    const folder = memoryFiles()
    const config = JSON.parse(readFileSync(fixture("llama-type1/adapter_config.json"), "utf8"))
    await folder.write("adapter_config.json", [new TextEncoder().encode(JSON.stringify({ ...config, ...change }))])
    await expect(loadAdapter(llama, folder, { methods })).rejects.toThrow(/E_CONFIG_UNSUPPORTED/)
  },
)

it("a new adapter is written so when asked", async () => {
  const out = memoryFiles()
  const model = adapt(llama, mora({ r: 2, type: "sharing", dropout: 0.1 }), { targetModules: ["v_proj"] })
  await saveAdapter(model, out, { format: upstreamLayout })
  const { model: again } = await loadAdapter(llama, out, { methods })
  expect(adapterOf(again).method.config).toEqual(adapterOf(model).method.config)
})
