/** Quantised folders that are broken, each refused by every command that reads one, and writing that fails: nothing is left behind. */
import { spawn } from "node:child_process"
import { cpSync, existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { parseSafetensors, serializeSafetensors, type TensorInput } from "@peftjs/safetensors"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { bin, finish, makeWorkplace, peft, peftJson, type Workplace } from "./run-peft.ts"

vi.setConfig({ testTimeout: 240_000, hookTimeout: 240_000 })

let work: Workplace
let sound: string
beforeAll(async () => {
  work = makeWorkplace()
  sound = work.path("sound")
  await peftJson("quantize", "--model", work.model, "--output", sound, "--double-quant")
  const train = ["train", "--model", work.model, "--data", work.rows, "--output", work.path("trained")]
  await peftJson(...train, "--max-steps", "1", "--max-length", "64")
})
afterAll(() => work.remove())

const q = "model.layers.1.self_attn.q_proj"
type Tensors = Map<string, TensorInput>

/** A copy of the folder with other tensors, or another configuration. */
function damaged(name: string, change: (tensors: Tensors, config: Record<string, unknown>) => void): string {
  const folder = work.path(name)
  cpSync(sound, folder, { recursive: true })
  const [weights, config] = [join(folder, "model.safetensors"), join(folder, "config.json")]
  const tensors: Tensors = new Map(parseSafetensors(readFileSync(weights)).tensors)
  const values = JSON.parse(readFileSync(config, "utf8"))
  change(tensors, values)
  writeFileSync(weights, serializeSafetensors(tensors, { format: "pt" }))
  writeFileSync(config, JSON.stringify(values))
  return folder
}

function edit<T extends Uint8Array | Float32Array>(tensors: Tensors, name: string, to: (data: T) => T): void {
  const { dtype, data, shape } = tensors.get(name) as TensorInput
  const made = to((data as T).slice() as T)
  tensors.set(name, { dtype, data: made, shape: shape.length === 2 ? [made.length, 1] : [made.length] })
}

const state = `${q}.weight.quant_state.bitsandbytes__nf4`
const rewrite = (tensors: Tensors, from: string, to: string): void =>
  edit<Uint8Array>(tensors, state, (data) => new TextEncoder().encode(new TextDecoder().decode(data).replace(from, to)))

const cases: readonly (readonly [string, Parameters<typeof damaged>[1], RegExp])[] = [
  ["codes-cut", (t) => edit(t, `${q}.weight`, (x) => x.subarray(7)), /q_proj\.weight: it has .* bytes.*E_QUANT_STATE/],
  [
    "another-map",
    (t) => edit<Float32Array>(t, `${q}.weight.quant_map`, (x) => x.reverse()),
    /q_proj\.weight\.quant_map holds 1 at 0.*E_QUANT_MAP/,
  ],
  ["no-json", (t) => rewrite(t, "{", "<"), /quant_state\.bitsandbytes__nf4: .*is not the JSON.*E_QUANT_STATE/],
  ["other-shape", (t) => rewrite(t, '"shape": [', '"shape": [1'), /"shape" is .*config\.json makes.*E_QUANT_STATE/],
  [
    "scales-missing",
    (t) => void t.delete(`${q}.weight.absmax`),
    /weight\.absmax: the tensor is missing.*E_QUANT_STATE/,
  ],
  [
    "says-nothing",
    (_, config) => void delete config.quantization_config,
    /is stored as nf4; config\.json says that nothing is quantised.*E_WEIGHTS/,
  ],
  [
    "says-fp4",
    (_, config) => Object.assign(config.quantization_config as object, { bnb_4bit_quant_type: "fp4" }),
    /is stored as nf4; config\.json says fp4.*E_WEIGHTS/,
  ],
  [
    "says-unknown",
    (_, config) => Object.assign(config.quantization_config as object, { bnb_4bit_quant_type: "nf3" }),
    /bitsandbytes's \(nf3\).*E_CONFIG/,
  ],
]

/** Every command that reads a model, and what it would leave. */
function commands(model: string, output: string): Record<string, string[]> {
  const adapter = work.path("trained", "adapter")
  return {
    train: ["train", "--model", model, "--data", work.rows, "--output", output, "--max-steps", "1"],
    eval: ["eval", "--model", model, "--data", work.rows],
    inspect: ["inspect", model],
    merge: ["merge", "--model", model, "--adapter", adapter, "--output", output],
    quantize: ["quantize", "--model", model, "--output", output],
  }
}

async function refused(args: string[], message: RegExp, output: string): Promise<void> {
  const { code, stdout, stderr } = await peft(...args)
  expect(stderr).toMatch(message)
  expect([code, stdout]).toEqual([1, ""])
  expect(stderr).not.toMatch(/^\s+at /m)
  expect(existsSync(output)).toBe(false)
}

describe("a quantised folder is refused:", () => {
  it.concurrent.each(cases)("%s", async (name, change, message) => {
    const model = damaged(name, change)
    const output = work.path(`${name}-out`)
    const { train, inspect } = commands(model, output)
    await refused(train as string[], message, output)
    if (name === "another-map" || name === "says-fp4") await refused(inspect as string[], message, output)
  })

  it("with NaN among its scales, by every command", async () => {
    const model = damaged("nan", (t) => edit<Float32Array>(t, `${q}.weight.nested_absmax`, (x) => x.fill(Number.NaN)))
    const output = work.path("none")
    const attempts = Object.entries(commands(model, output)).map(([name, args]) => {
      // It takes no folder that is quantised already, broken or not.
      const message = name === "quantize" ? /quantization_config.*E_CONFIG/ : /nested_absmax holds NaN.*E_NOT_FINITE/
      return refused(args, message, output)
    })
    await Promise.all(attempts)
  })

  it("that is cut", async () => {
    const model = work.path("cut")
    cpSync(sound, model, { recursive: true })
    const file = join(model, "model.safetensors")
    truncateSync(file, statSync(file).size - 100)
    const output = work.path("none")
    const { eval: evaluated, merge } = commands(model, output)
    for (const args of [evaluated, merge]) await refused(args as string[], /E_SAFETENSORS_SIZE/, output)
  })
})

describe("peft quantize", () => {
  it("leaves nothing where a weight holds NaN", async () => {
    const model = work.path("dense-nan")
    cpSync(work.model, model, { recursive: true })
    const file = join(model, "model.safetensors")
    const tensors: Tensors = new Map(parseSafetensors(readFileSync(file)).tensors)
    const weight = tensors.get(`${q}.weight`) as TensorInput
    tensors.set(`${q}.weight`, { ...weight, data: (weight.data as Float32Array).slice().fill(Number.NaN, 5, 6) })
    writeFileSync(file, serializeSafetensors(tensors, { format: "pt" }))
    const output = work.path("from-nan")
    await refused(
      ["quantize", "--model", model, "--output", output],
      /q_proj\.weight.*NaN or Inf.*E_NOT_FINITE/,
      output,
    )
    expect(readdirSync(work.folder).filter((name) => name.includes("unfinished"))).toEqual([])
  })

  // The system refuses files above a size, as a full disk does.
  it.skipIf(process.platform === "win32")("leaves nothing where the disk takes no more", async () => {
    const output = work.path("full")
    const limited = `ulimit -f 96; exec "$0" "$@"`
    const args = ["quantize", "--model", work.model, "--output", output, "--json"]
    const child = spawn("sh", ["-c", limited, process.execPath, bin, ...args], {
      env: { ...process.env, PEFT_BLAS: "off", PEFT_DEBUG: "" },
    })
    const { code, stdout, stderr } = await finish(child)
    expect(stderr).toMatch(/cannot write .*E_WRITE/)
    expect([code, stdout]).toEqual([1, ""])
    expect(readdirSync(work.folder).filter((name) => name.startsWith("full"))).toEqual([])
  })
})
