/** Adapters saved by real PEFT: what they compute, what is trained, and that we write them back as they were. */
import { readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import {
  disable,
  enable,
  engineOf,
  free,
  isPeftError,
  loadAdapter,
  type Model,
  type ModelInput,
  saveAdapter,
  trainables,
  valueAndGradients,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { memoryFiles, parseSafetensors, toFloat32 } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { describe, expect, test } from "vitest"

const fixtures = fileURLToPath(new URL("../../../fixtures/", import.meta.url))
const json = (path: string): never => JSON.parse(readFileSync(`${fixtures}${path}`, "utf8")) as never
const tensors = (path: string): Map<string, { shape: readonly number[]; data: Float32Array }> => {
  const { tensors: found } = parseSafetensors(readFileSync(`${fixtures}${path}`))
  return new Map([...found].map(([name, t]) => [name, { shape: t.shape, data: toFloat32(t.dtype, t.data) }]))
}
const backend = await cpu({ kernels: "reference" })

/** A base model of the fixtures, with the batches its figures were made with. */
interface Base {
  readonly model: Model
  readonly plain: ModelInput
  readonly right: ModelInput
  readonly labels: Int32Array
}

async function loadBase(name: string): Promise<Base> {
  const inputs = tensors(`${name}/inputs.safetensors`)
  const ints = (key: string): Int32Array => Int32Array.from(inputs.get(key)?.data ?? [])
  return {
    model: await loadCausalLM(`${fixtures}${name}`, { backend }),
    plain: { ids: ints("input_ids"), batch: 2, tokens: 12 },
    right: { ids: ints("right.input_ids"), batch: 2, tokens: 12, mask: ints("right.attention_mask") },
    labels: ints("right.labels"),
  }
}
const names = ["models/llama", "models/llama-tied", "models/gpt2", "models/qwen2"]
const bases = new Map(await Promise.all(names.map(async (name) => [name, await loadBase(name)] as const)))
const base = (bases.get("models/llama") as Base).model

interface Expected {
  base: string
  adapter: string
  saved_keys: Record<string, { dtype: string; shape: number[] }>
  trainable_parameter_count: number
  loss_right: number
  grad_stats_right?: Record<string, { abs_sum: number; max_abs: number; first: number; last: number }>
  tolerance: { logits_abs: number; loss_abs: number; grad_rel_to_max: number }
}

const largest = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  expect(a.length).toBe(b.length)
  return Array.from(a, (x, i) => Math.abs(x - (b[i] as number))).reduce((m, d) => (d > m || Number.isNaN(d) ? d : m), 0)
}
const logitsOf = async (model: Model, input: ModelInput): Promise<Float32Array> => {
  const out = model.forward(input)
  const data = (await out.data()) as Float32Array
  free(out)
  return data
}
/** The key of the file for a trainable's name. */
function keyOf(model: Model, name: string): string {
  const [path, param] = [name.slice(0, name.lastIndexOf(".")), name.slice(name.lastIndexOf(".") + 1)]
  const own = model.view.adapters[0]?.sites.get(path)?.params[param] !== undefined
  const kind = model.sites.get(path)?.kind
  return `base_model.model.${own && kind ? `${path}.${lora.format?.tensorName(param, kind)}` : name}`
}
/** The loss, and the gradients by key of the file. */
async function learn(
  model: Model,
  { right, labels }: Base,
): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const { value, gradients } = valueAndGradients(engineOf(backend), () => model.losses(right, labels).mean())
  const found = new Map<string, Float32Array>()
  for (const { name, tensor } of trainables(model)) {
    const gradient = gradients.get(tensor)
    if (gradient) found.set(keyOf(model, name), (await gradient.data()) as Float32Array)
  }
  const loss = ((await value.data()) as Float32Array)[0] as number
  for (const t of [value, ...gradients.values()]) free(t)
  return { loss, gradients: found }
}

const cases = names.flatMap((name) => {
  const folder = name.replace("models", "adapters")
  return readdirSync(`${fixtures}${folder}`).map((adapter) => `${folder}/${adapter}`)
})
test("every kind of adapter is here", () => expect(cases.filter((name) => name.includes("/lora-"))).toHaveLength(57))

describe.each(cases.filter((name) => name.includes("/lora-")))("%s", (folder) => {
  const expected = json(`${folder}/expected.json`) as Expected
  const outputs = tensors(`${folder}/expected.safetensors`)
  const files = nodeFiles(`${fixtures}${expected.adapter}`)
  const { plain, ...batches } = bases.get(expected.base) as Base
  const base = batches.model
  const load = async (): Promise<Model> => (await loadAdapter(base, files, { methods: [lora] })).model

  test("logits, loss and gradients are PEFT's", async () => {
    const model = await load()
    const { logits_abs, loss_abs, grad_rel_to_max } = expected.tolerance
    expect(largest(await logitsOf(model, plain), outputs.get("plain.logits")?.data ?? [])).toBeLessThan(logits_abs)
    const { loss, gradients } = await learn(model, { plain, ...batches })
    expect(Math.abs(loss - expected.loss_right)).toBeLessThan(loss_abs)
    expect(trainables(model).reduce((n, t) => n + t.tensor.size, 0)).toBe(expected.trainable_parameter_count)
    const whole = [...outputs].filter(([name]) => name.startsWith("right.grad."))
    for (const [name, { data }] of whole) {
      const scale = data.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
      const ours = gradients.get(name.slice("right.grad.".length)) ?? []
      // Tokens that the batch does not have: a gradient of zero.
      expect(largest(ours, data), name).toBeLessThanOrEqual(grad_rel_to_max * scale)
    }
    const statistics = Object.entries(expected.grad_stats_right ?? {})
    for (const [name, stats] of statistics) {
      const ours = gradients.get(name) ?? new Float32Array()
      const sizes = ours.map(Math.abs)
      const bound = grad_rel_to_max * stats.max_abs
      expect(Math.abs((ours[0] ?? Number.NaN) - stats.first), name).toBeLessThan(bound)
      expect(Math.abs((ours.at(-1) ?? Number.NaN) - stats.last), name).toBeLessThan(bound)
      expect(Math.abs(sizes.reduce((m, x) => Math.max(m, x), 0) - stats.max_abs), name).toBeLessThan(bound)
      expect(Math.abs(sizes.reduce((sum, x) => sum + x, 0) - stats.abs_sum), name).toBeLessThan(bound * ours.length)
    }
    expect(whole.length + statistics.length).toBeGreaterThan(0)
    expect(gradients.size).toBe(whole.length + statistics.length)
  })

  test("switched off it is the base, switched on again it is itself", async () => {
    const model = await load()
    const [alone, adapted] = [await logitsOf(base, plain), await logitsOf(model, plain)]
    disable(model)
    expect(await logitsOf(model, plain)).toEqual(alone)
    enable(model)
    expect(await logitsOf(model, plain)).toEqual(adapted)
    expect(largest(alone, adapted)).toBeGreaterThan(0.01)
  })

  test("saved again it is the same: names, shapes, values and config", async () => {
    const out = memoryFiles()
    await saveAdapter(await load(), out)
    const read = async (path: string): Promise<Uint8Array> => {
      const source = await out.open(path)
      return source.read(0, source.size)
    }
    const written = parseSafetensors(await read("adapter_model.safetensors"))
    const original = await files.open("adapter_model.safetensors")
    const before = parseSafetensors(await original.read(0, original.size))
    expect([...written.tensors.keys()].sort()).toEqual(Object.keys(expected.saved_keys).sort())
    expect(written.metadata).toEqual({ format: "pt" })
    for (const [name, t] of written.tensors) {
      expect(t.shape).toEqual(expected.saved_keys[name]?.shape)
      const old = before.tensors.get(name)
      expect(toFloat32(t.dtype, t.data)).toEqual(old && toFloat32(old.dtype, old.data))
    }
    const config = await files.open("adapter_config.json")
    const parse = (bytes: Uint8Array): unknown => JSON.parse(new TextDecoder().decode(bytes))
    expect(parse(await read("adapter_config.json"))).toEqual(parse(await config.read(0, config.size)))
  })
})

const folder = nodeFiles(`${fixtures}adapters/llama/lora-qv-r4`)
const text = async (path: string): Promise<string> => {
  const source = await folder.open(path)
  return new TextDecoder().decode(await source.read(0, source.size))
}
const bytes = async (): Promise<Uint8Array> => {
  const source = await folder.open("adapter_model.safetensors")
  return (await source.read(0, source.size)).slice()
}
const attempt = async (config: string, weights?: Uint8Array): Promise<string> => {
  const files = memoryFiles()
  await files.write("adapter_config.json", [new TextEncoder().encode(config)])
  if (weights) await files.write("adapter_model.safetensors", [weights])
  const live = engineOf(backend).liveBuffers
  try {
    await loadAdapter(base, files, { methods: [lora] })
  } catch (error) {
    if (isPeftError(error)) return `${error.code}${engineOf(backend).liveBuffers > live ? " and leaked" : ""}`
    throw error
  }
  return "loaded"
}
const config = await text("adapter_config.json")
const changed = (change: object): string => JSON.stringify({ ...JSON.parse(config), ...change })

describe("what cannot be loaded is refused and leaves the model as it was", () => {
  test.each([
    ["broken JSON", `${config.slice(0, 80)}]`, "E_JSON"],
    ["no object", "[]", "E_CONFIG"],
    ["no peft_type", changed({ peft_type: undefined }), "E_CONFIG"],
    ["another method", changed({ peft_type: "VERA" }), "E_PEFT_TYPE"],
    ["a key that would change the result", changed({ use_qalora: true }), "E_CONFIG_UNSUPPORTED"],
    ["r of the wrong type", changed({ r: "4" }), "E_CONFIG"],
    ["r of zero", changed({ r: 0 }), "E_RANK"],
    ["another r", changed({ r: 5 }), "E_ADAPTER_SHAPE"],
    ["targets that select nothing", changed({ target_modules: ["nothing"] }), "E_TARGET"],
    ["fewer targets than tensors", changed({ target_modules: ["q_proj"] }), "E_ADAPTER_KEYS"],
    ["more targets than tensors", changed({ target_modules: ["q_proj", "v_proj", "k_proj"] }), "E_ADAPTER_KEYS"],
  ])("%s", async (_name, text, code) => expect(await attempt(text, await bytes())).toBe(code))

  test("no weights, truncated weights", async () => {
    expect(await attempt(config)).toBe("E_FILE_NOT_FOUND")
    expect(await attempt(config, (await bytes()).slice(0, -4))).toBe("E_SAFETENSORS_SIZE")
  })
})

test("keys that nobody knows are kept, and a loose load reports what is missing", async () => {
  const files = memoryFiles()
  for (const path of ["adapter_config.json", "adapter_model.safetensors"]) {
    const source = await folder.open(path)
    const data = await source.read(0, source.size)
    const config = path.endsWith("json")
      ? {
          ...JSON.parse(new TextDecoder().decode(data)),
          from_the_future: { a: 1 },
          target_modules: ["q_proj", "v_proj", "k_proj", "typo"],
        }
      : undefined
    await files.write(path, [config ? new TextEncoder().encode(JSON.stringify(config)) : data])
  }
  const { model, report } = await loadAdapter(base, files, { methods: [lora], strict: false })
  expect(report).toMatchObject({ peftType: "LORA", sites: 6, unmatchedTargets: ["typo"], unexpected: [] })
  expect(report.missing).toHaveLength(4)
  const out = memoryFiles()
  await saveAdapter(model, out)
  const source = await out.open("adapter_config.json")
  expect(JSON.parse(new TextDecoder().decode(await source.read(0, source.size)))).toMatchObject({
    from_the_future: { a: 1 },
  })
})
