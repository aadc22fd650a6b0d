/**
 * Methods that leave a residual in the base's place, as PiSSA and LoftQ do, over packed and dense bases: a double of rank 1, whose residual is
 * stored as the base is, computes, merges, saves, and goes without a trace.
 */
import { cpu } from "@peftjs/backend-cpu"
import { fakeBackend, toyLosses, toyModel, toyPaths } from "@peftjs/conformance"
import {
  type AdapterMethod,
  adapt,
  adaptAsync,
  adapterOf,
  type Backend,
  detach,
  disable,
  engineOf,
  hostValues,
  loadAdapter,
  type Model,
  merge,
  PeftError,
  param,
  saveAdapter,
  uploadDense,
  type Weight,
  type WeightFormat,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM, saveModel } from "@peftjs/models"
import { memoryFiles } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { jsonl, train } from "@peftjs/train"
import { describe, expect, it } from "vitest"
import { fp4, int8, nf4 } from "../src/index.ts"
import { blocksOf, fixture, largest, storedOf } from "./helpers.ts"

/** The largest singular triple, as B [rows] and A [columns], and what is left without it. */
function peeled(values: Float32Array, rows: number, columns: number): Record<"A" | "B" | "rest", Float32Array> {
  let right: Float64Array = Float64Array.from({ length: columns }, (_, i) => 1 + i / columns)
  let left: Float64Array = new Float64Array(rows)
  const times = (transposed: boolean, x: Float64Array): Float64Array => {
    const y = new Float64Array(transposed ? columns : rows)
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) {
        const value = values[r * columns + c] as number
        if (transposed) y[c] = (y[c] as number) + value * (x[r] as number)
        else y[r] = (y[r] as number) + value * (x[c] as number)
      }
    return y
  }
  for (let i = 0; i < 30; i++) {
    left = times(false, right)
    right = times(true, left)
    const norm = Math.hypot(...right)
    right = right.map((x) => x / (norm || 1))
  }
  left = times(false, right)
  const [A, B] = [Float32Array.from(right), Float32Array.from(left)]
  const rest = values.map((x, i) => x - (B[Math.floor(i / columns)] as number) * (A[i % columns] as number))
  return { A, B, rest }
}

interface Double {
  /** Looks at what storing loses, as LoftQ does, instead of taking the largest part away, as PiSSA does. */
  readonly loftq?: boolean
  readonly failAt?: string
}

function residual({ loftq = false, failAt }: Double = {}): AdapterMethod {
  const under = lora({ r: 1, alpha: 1 })
  const method: AdapterMethod = {
    ...under,
    name: "residual",
    sites: ["linear"],
    async prepare({ site, values, stored }) {
      if (site.path === failAt) throw new PeftError("E_RANK", "[residual] not here")
      const [rows, columns] = [site.out, site.in]
      if (!loftq) {
        const { A, B, rest } = peeled(values, rows, columns)
        return { start: { A, B }, residual: rest }
      }
      const kept = await stored(values)
      const { A, B } = peeled(
        values.map((x, i) => x - (kept[i] as number)),
        rows,
        columns,
      )
      return {
        start: { A, B },
        residual: values.map((x, i) => x - (B[Math.floor(i / columns)] as number) * (A[i % columns] as number)),
      }
    },
    init: ({ site, start, init }) => ({
      params: {
        A: param(init.tensor(start.A as Float32Array, [1, site.in])),
        B: param(init.tensor(start.B as Float32Array, [site.out, 1])),
      },
    }),
  }
  const format = under.format as NonNullable<AdapterMethod["format"]>
  return { ...method, format: { ...format, read: () => residual({ loftq }) } }
}

const linear = { targetModules: "all-linear" } as const
const adapted = [toyPaths.up, toyPaths.down]

/** The toy model with its two linear layers in a format. */
async function toy(backend: Backend, format?: WeightFormat | "bf16"): Promise<Model> {
  const plain = toyModel(backend)
  if (format === undefined) return plain
  const weights = new Map<string, Weight>()
  for (const path of adapted) {
    const base = plain.sites.get(path)?.base as Weight
    const values = await hostValues(engineOf(backend), base)
    weights.set(
      path,
      format === "bf16"
        ? uploadDense(
            backend,
            new Uint16Array(new Uint32Array(values.buffer).map((bits) => bits >>> 16)),
            "bf16",
            base.shape,
          )
        : await format.encode(backend, base.shape, blocksOf(values, base.shape[1])),
    )
  }
  return toyModel(backend, 0, { weights })
}

const valuesAt = (model: Model, path: string): Promise<Float32Array> =>
  hostValues(engineOf(model.backend), model.sites.get(path)?.base as Weight)
const residualAt = (model: Model, path: string): Weight => adapterOf(model).sites.get(path)?.base as Weight
/** How far a layer with its adapter is from the base's own values, as a share of the largest. */
async function moved(model: Model, base: Model, path: string): Promise<number> {
  const { A, B } = adapterOf(model).sites.get(path)?.params ?? {}
  const [a, b] = [(await A?.value.data()) as Float32Array, (await B?.value.data()) as Float32Array]
  const rest = await hostValues(engineOf(model.backend), residualAt(model, path))
  const sum = rest.map((x, i) => x + (b[Math.floor(i / a.length)] as number) * (a[i % a.length] as number))
  const own = await valuesAt(base, path)
  return largest(sum, own) / Math.max(...own.map(Math.abs))
}

const bases: [string, WeightFormat | "bf16" | undefined, string, number][] = [
  ["f32", undefined, "f32", 1e-6],
  ["bf16", "bf16", "bf16", 0.01],
  ["nf4", nf4(), "nf4", 0.2],
  ["nf4, double", nf4({ doubleQuant: true }), "nf4", 0.2],
  ["fp4", fp4(), "fp4", 0.3],
  ["int8", int8(), "int8", 0.01],
]

describe.each(bases)("a residual over %s", (_, format, name, loss) => {
  it("is stored as the base is, is what the layer computes with, and goes without a trace", async () => {
    const backend = await cpu({ kernels: "reference" })
    const model = await toy(backend, format)
    const before = engineOf(backend).liveBuffers
    const contents = await Promise.all(adapted.map((path) => storedOf(model.sites.get(path)?.base as Weight)))
    const plain = await toyLosses(model)

    const view = await adaptAsync(model, residual(), linear)
    for (const path of adapted) {
      const own = model.sites.get(path)?.base as Weight
      expect(residualAt(view, path).format).toBe(name)
      expect(residualAt(view, path).bytes).toBe(own.bytes)
      expect([...(residualAt(view, path).stored?.keys() ?? [])]).toEqual([...(own.stored?.keys() ?? [])])
      expect(await hostValues(engineOf(backend), residualAt(view, path))).not.toEqual(await valuesAt(model, path))
      expect(await moved(view, model, path)).toBeLessThan(loss)
    }
    // The layer is residual and adapter together: no farther from the base than storing makes it, and not the base itself.
    const losses = await toyLosses(view)
    expect(largest(losses, plain)).toBeLessThan(2 * loss)
    expect(losses).not.toEqual(plain)
    disable(view)
    expect(await toyLosses(view)).toEqual(plain)

    expect(await toyLosses(detach(view))).toEqual(plain)
    expect(await Promise.all(adapted.map((path) => storedOf(model.sites.get(path)?.base as Weight)))).toEqual(contents)
    expect(engineOf(backend).liveBuffers).toBe(before)
  })

  it("merges, and is there again after saving and loading", async () => {
    const backend = await cpu({ kernels: "reference" })
    const model = await toy(backend, format)
    const view = await adaptAsync(model, residual(), linear)
    const losses = await toyLosses(view)
    const { model: merged } = await merge(view)
    expect(largest(await toyLosses(merged), losses)).toBeLessThan(1e-5)
    const files = memoryFiles()
    await saveAdapter(view, files)
    const { model: loaded } = await loadAdapter(model, files, { methods: [{ format: residual().format as never }] })
    expect(await toyLosses(loaded)).toEqual(losses)
  })
})

it("lets a method see what storing loses", async () => {
  const model = await toy(await cpu({ kernels: "reference" }), nf4())
  // Values that are stored already lose nothing, so the double begins with nothing; those of a dense base it is quantised from would not.
  const view = await adaptAsync(model, residual({ loftq: true }), linear)
  for (const path of adapted) expect(await moved(view, model, path)).toBeLessThan(1e-6)
})

it("trains, and starts anew at restarts", async () => {
  const backend = await cpu({ kernels: "reference" })
  const model = await adaptAsync(await toy(backend), residual(), linear)
  const rows = Array.from({ length: 4 }, (_, i) => ({ input_ids: [1, 2 + i, 3, 4 + i], labels: [1, 2 + i, 3, 4 + i] }))
  const restarts: number[] = []
  const { steps, model: last } = await train(model, jsonl(rows), {
    ...{ maxSteps: 6, batchSize: 2, restart: { every: 2, warmup: 0 } },
    onRestart: ({ cycle }) => void restarts.push(cycle),
  })
  expect([steps, restarts]).toEqual([6, [1, 2]])
  for (const path of adapted) expect(residualAt(last, path).format).toBe("f32")
})

it("stays packed as the file's weights are, and the file can be written again byte for byte", async () => {
  const backend = await cpu()
  const model = await loadCausalLM(nodeFiles(fixture("bnb/llama-nf4-dq")), { backend, weights: nf4() })
  const before = memoryFiles()
  await saveModel(model, before)
  const view = await adaptAsync(model, residual(), { targetModules: ["q_proj"] })
  const [path] = [...adapterOf(view).sites.keys()] as [string]
  expect([...(residualAt(view, path).stored?.keys() ?? [])]).toContain("weight.nested_absmax")
  const after = memoryFiles()
  await saveModel(detach(view), after)
  expect(after.files).toEqual(before.files)
})

it("is refused where nothing can wait, and a failure leaves nothing", async () => {
  const backend = fakeBackend()
  const model = toyModel(backend)
  const before = backend.live()
  expect(() => adapt(model, residual(), linear)).toThrow(/await adaptAsync.*E_PREPARE/)
  await expect(adaptAsync(model, residual({ failAt: toyPaths.down }), linear)).rejects.toThrow(/not here.*E_RANK/)
  const short: AdapterMethod = { ...residual(), prepare: () => ({ start: {}, residual: new Float32Array(3) }) }
  await expect(adaptAsync(model, short, linear)).rejects.toThrow(/3 values do not fill.*E_SHAPE/)
  const broken: AdapterMethod = {
    ...residual(),
    init() {
      throw new PeftError("E_RANK", "[residual] not at all")
    },
  }
  await expect(adaptAsync(model, broken, linear)).rejects.toThrow(/not at all/)
  expect(backend.live()).toBe(before)
})
