/** `peft convert` and `peft spectrum`: the same model in another form, and what has been added to it. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { cp } from "node:fs/promises"
import { join } from "node:path"
import { parseSafetensors, serializeSafetensors } from "@peftjs/safetensors"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { fixtures, makeWorkplace, peft, peftJson } from "./run-peft.ts"

const work = makeWorkplace()
afterAll(() => work.remove())
const [base, gpt2] = [join(fixtures, "models/llama"), join(fixtures, "models/gpt2")]
const rows = Array.from({ length: 8 }, (_, n) => ({
  input_ids: [1, 5 + n, 17, 40 - n, 3],
  labels: [1, 5 + n, 17, 40 - n, 3],
}))
const data = work.write("ids.jsonl", rows.map((row) => `${JSON.stringify(row)}\n`).join(""))

async function trained(name: string, model: string, ...options: string[]): Promise<string> {
  const output = work.path(name)
  const steps = ["--max-steps", "4", "--learning-rate", "1e-2", "--batch-size", "4"]
  await peftJson("train", "--model", model, "--data", data, "--output", output, ...steps, ...options)
  return join(output, "adapter")
}

async function logitsOf(model: string, adapter?: string): Promise<Float32Array> {
  const input = work.write("input.json", JSON.stringify({ input_ids: [[1, 17, 42, 99, 5]] }))
  const output = work.path("logits.safetensors")
  const on = adapter === undefined ? [] : ["--adapter", adapter]
  await peftJson("logits", "--model", model, ...on, "--input", input, "--output", output)
  return parseSafetensors(readFileSync(output)).tensors.get("logits")?.data as Float32Array
}
const apart = (a: Float32Array, b: Float32Array): number => Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number))))
const configIn = (folder: string): Record<string, unknown> =>
  JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"))

const mora = (type: string): string[] => ["--method", "mora", "--r", "4", "--method-option", `type=${type}`]
let [sharing, rotation, beside] = ["", "", ""]
beforeAll(async () => {
  sharing = await trained("sharing", base, ...mora("sharing"))
  rotation = await trained("rotation", base, ...mora("rotation"))
  const more = ["--bias", "mora_only", "--modules-to-save", "ln_f", "--trainable-token-indices", "3,9"]
  beside = await trained("beside", gpt2, ...mora("2"), "--target-modules", "c_attn,c_fc", ...more)
}, 120_000)

describe("convert --to lora", () => {
  it("is exact for MoRA without rotation, with a rank per kind of layer", async () => {
    const output = work.path("sharing-lora")
    const args = ["convert", "--model", base, "--adapter", sharing, "--to", "lora", "--output", output]
    const { error, layers } = await peftJson<{ error: number; layers: { rank: number; error: number }[] }>(...args)
    expect([error, layers.length]).toEqual([0, 14])
    const config = configIn(output)
    expect(config).toMatchObject({ peft_type: "LORA", bias: "none", base_model_name_or_path: base })
    expect(config.rank_pattern).toEqual(config.alpha_pattern)
    expect(Object.keys(config.rank_pattern as object).every((key) => /^\w+_proj$/.test(key))).toBe(true)
    const [ours, theirs] = [await logitsOf(base, sharing), await logitsOf(base, output)]
    expect(apart(ours, theirs)).toBeLessThan(2e-5)
    expect(apart(ours, await logitsOf(base))).toBeGreaterThan(0.01)
    const again = await peft(...args)
    expect([again.code, again.stderr]).toEqual([1, expect.stringContaining("E_OUTPUT_EXISTS")])
  })

  it("takes biases, whole modules and tokens along", async () => {
    const output = work.path("beside-lora")
    await peftJson("convert", "--model", gpt2, "--adapter", beside, "--to", "lora", "--output", output)
    expect(configIn(output)).toMatchObject({
      ...{ bias: "lora_only", modules_to_save: ["ln_f"], trainable_token_indices: [3, 9], fan_in_fan_out: true },
    })
    expect(apart(await logitsOf(gpt2, beside), await logitsOf(gpt2, output))).toBeLessThan(2e-5)
  })

  it("says what rotation loses, per layer and in all, and loses nothing at full rank", async () => {
    const errors: number[] = []
    for (const rank of ["4", "64"]) {
      const output = work.path(`rotation-${rank}`)
      const args = ["convert", "--model", base, "--adapter", rotation, "--to", "lora", "--output", output]
      const { error, layers } = await peftJson<{ error: number; layers: { error: number }[] }>(...args, "--rank", rank)
      const each = layers.map((layer) => layer.error)
      expect(Math.max(...each)).toBeGreaterThanOrEqual(error)
      expect(Math.min(...each)).toBeLessThanOrEqual(error)
      errors.push(error)
      if (rank === "64") expect(apart(await logitsOf(base, rotation), await logitsOf(base, output))).toBeLessThan(1e-4)
    }
    expect(errors[0]).toBeGreaterThan(0.3)
    expect(errors[1]).toBeLessThan(1e-5)
    const { stdout } = await peft(
      ...["convert", "--model", base, "--adapter", rotation, "--to", "lora", "--rank", "4", "--overwrite"],
      ...["--output", work.path("rotation-4")],
    )
    expect(stdout).toMatch(/layers\.1\.mlp\.down_proj +4 +\d+\.\d %/)
    expect(stdout).toMatch(/14 layers of rank 4: .*% of the update is lost/)
  })

  it("approximates any other method that merges", async () => {
    const dora = join(fixtures, "adapters/llama/lora-dora")
    const output = work.path("dora-lora")
    await peftJson("convert", "--model", base, "--adapter", dora, "--to", "lora", "--output", output)
    expect(apart(await logitsOf(base, dora), await logitsOf(base, output))).toBeLessThan(1e-3)
  })
})

describe("layouts of MoRA", () => {
  it("goes over to its authors' and back without a change", async () => {
    const [theirs, ours] = [work.path("theirs"), work.path("ours")]
    await peftJson("convert", "--model", base, "--adapter", rotation, "--to", "mora-upstream", "--output", theirs)
    expect(configIn(theirs)).toMatchObject({ peft_type: "LORA", use_mora: true, mora_type: 6 })
    expect(await peftJson("inspect", theirs)).toMatchObject({ use_mora: true, mora_type: 6, r: 4 })
    await peftJson("convert", "--model", base, "--adapter", theirs, "--to", "mora", "--output", ours)
    const [before, after] = [rotation, ours].map((folder) => readFileSync(join(folder, "adapter_model.safetensors")))
    expect(after?.equals(before as Buffer)).toBe(true)
    expect(configIn(ours)).toEqual(configIn(rotation))
  })

  it("inspect sees copies that differ", async () => {
    const broken = work.path("broken")
    await cp(work.path("theirs"), broken, { recursive: true })
    const file = join(broken, "adapter_model.safetensors")
    const changed = [...parseSafetensors(readFileSync(file)).tensors].map(([name, t], i) => {
      return [name, i === 0 ? { ...t, data: (t.data as Float32Array).map((x) => x + 1) } : t] as const
    })
    writeFileSync(file, serializeSafetensors(changed, { format: "pt" }))
    expect((await peft("inspect", broken)).stderr).toContain("E_ADAPTER_COPY")
  })
})

it.each([
  ["another method's layout", ["--to", "mora-upstream"], "lora-all-linear", "E_OPTION"],
  ["a rank for a layout", ["--to", "mora", "--rank", "4"], "lora-all-linear", "E_OPTION"],
  ["a form that there is not", ["--to", "dora"], "lora-all-linear", "dora"],
  ["a missing form", [], "lora-all-linear", "--to"],
])("refuses %s", async (_, options, adapter, said) => {
  const from = join(fixtures, "adapters/llama", adapter)
  const output = work.path("refused")
  const { code, stderr } = await peft("convert", "--model", base, "--adapter", from, "--output", output, ...options)
  expect([code, stderr]).toEqual([1, expect.stringContaining(said)])
  expect(existsSync(output)).toBe(false)
})

it("refuses an adapter of another base, and a method that does not merge", async () => {
  const output = work.path("refused")
  const args = ["--to", "lora", "--output", output]
  const wrong = await peft("convert", "--model", gpt2, "--adapter", rotation, ...args)
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining("E_TARGET")])
  const method = work.path("rigid")
  mkdirSync(method)
  writeFileSync(
    join(method, "index.js"),
    `const param = (value) => ({ value, trainable: true, saved: true })
const sites = ["linear"]
const init = ({ site, init: { zeros } }) => ({ params: { A: param(zeros([4, site.in])), B: param(zeros([site.out, 4])) } })
const rigid = () => ({ kind: "site", specVersion: 1, name: "rigid", config: {}, sites, mergeable: false, init, forward: (x, next) => next(x), format })
const format = { peftType: "RIGID", defaults: {}, supported: [], read: rigid, write: () => ({}), tensorName: (name) => "lora_" + name + ".weight" }
module.exports = Object.assign(rigid, { format })
`,
  )
  const adapter = work.path("rigid-adapter")
  await cp(join(fixtures, "adapters/llama/lora-all-linear"), adapter, { recursive: true })
  writeFileSync(join(adapter, "adapter_config.json"), JSON.stringify({ ...configIn(adapter), peft_type: "RIGID" }))
  const rigid = await peft("convert", "--model", base, "--adapter", adapter, "--method", method, ...args)
  expect([rigid.code, rigid.stderr]).toEqual([1, expect.stringContaining("E_NOT_MERGEABLE")])
  expect(existsSync(output)).toBe(false)
})

describe("spectrum", () => {
  type Found = {
    threshold: number
    projections: { projection: string; layers: number; size: number; above: number; curve: number[]; norm: number }[]
    layers: { path: string; above: number; effective_rank: number; norm: number; largest: number }[]
  }
  const of = (...args: string[]): Promise<Found> => peftJson("spectrum", "--plot", work.path("plot.svg"), ...args)

  it("of MoRA is full where LoRA's ends at its rank; the base is what the adapter names", async () => {
    const { projections, layers, threshold } = await of("--adapter", rotation)
    expect([threshold, layers.length]).toEqual([0.1, 14])
    expect(projections.map(({ projection }) => projection)).toEqual(
      ["q", "k", "v", "o", "gate", "up", "down"].map((name) => `${name}_proj`),
    )
    const q = projections[0]
    expect([q?.layers, q?.size]).toEqual([2, 64])
    expect(q?.curve.filter((s) => s > 1e-5).length).toBeGreaterThan(40)
    const low = await of("--adapter", join(fixtures, "adapters/llama/lora-all-linear"), "--model", base)
    const { r } = configIn(join(fixtures, "adapters/llama/lora-all-linear"))
    expect(low.projections[0]?.curve).toHaveLength(r as number)
    const plot = readFileSync(work.path("plot.svg"), "utf8")
    expect(plot).toMatch(/^<svg [\s\S]*<\/svg>\n$/)
    expect(plot.match(/<polyline /g)).toHaveLength(7)
  })

  it("of factors is that of the whole update, also of a merged model against its base", async () => {
    const adapter = join(fixtures, "adapters/llama/lora-all-linear")
    const merged = work.path("merged")
    await peftJson("merge", "--model", base, "--adapter", adapter, "--output", merged, "--dtype", "f32")
    const [apart, whole] = [
      await of("--adapter", adapter, "--model", base),
      await of("--adapter", merged, "--model", base),
    ]
    expect(whole.layers.length).toBe(apart.layers.length)
    for (const [i, { path, norm, largest, effective_rank }] of apart.layers.entries()) {
      const other = whole.layers.find((layer) => layer.path === path)
      expect(other?.norm, path).toBeCloseTo(norm, 5)
      expect(other?.largest, path).toBeCloseTo(largest, 5)
      expect(Math.abs((other?.effective_rank ?? 0) / effective_rank - 1), `${path} ${i}`).toBeLessThan(1e-2)
    }
  })

  it("counts above the threshold that is given, and prints a table", async () => {
    const all = await of("--adapter", sharing, "--threshold", "0")
    expect(all.layers.every(({ above }) => above > 8)).toBe(true)
    const { stdout, code } = await peft("spectrum", "--adapter", sharing, "--plot", work.path("plot.svg"))
    expect(code).toBe(0)
    expect(stdout).toMatch(/projection +layers +of +above 0\.1 +effective rank +norm +largest\nq_proj +2 +64 /)
  })
})
