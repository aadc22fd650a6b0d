/** An adapter as LoRA: exact where it is one, as near as a rank allows where not, and the decomposition that says so. */
import { cpu } from "@peftjs/backend-cpu"
import {
  type AdapterMethod,
  adapt,
  assign,
  engineOf,
  free,
  keyOf,
  type Model,
  noGrad,
  normals,
  scope,
  tensor,
  trainables,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { describe, expect, it } from "vitest"
import {
  deltaSpectrum,
  loraFactors,
  mora,
  moraDelta,
  singularValues,
  singularValuesOfProduct,
  truncatedSvd,
} from "../src/index.ts"
import { commonFixture, largest } from "./helpers.ts"

const backend = await cpu({ kernels: "reference" })
const llama = await loadCausalLM(commonFixture("models/llama"), { backend })
const input = { ids: Int32Array.of(5, 17, 99, 3, 64, 127, 0, 42, 8, 1), batch: 2, tokens: 5 }
async function logitsOf(model: Model): Promise<Float32Array> {
  const out = model.forward(input)
  const data = (await out.data()) as Float32Array
  free(out)
  return data
}
function set(model: Model, name: string, values: Float32Array): void {
  const found = trainables(model).find((t) => t.name === name)
  if (!found) throw new Error(`no parameter ${name}`)
  scope(engineOf(backend), () =>
    noGrad(engineOf(backend), () => assign(found.tensor, tensor(backend, values, found.tensor.shape))),
  )
}
/** An adapter with random parameters, on every linear layer. */
function random(method: AdapterMethod, targetModules: string | string[] = "all-linear"): Model {
  const model = adapt(llama, method, { targetModules })
  for (const { name, tensor: t } of trainables(model)) set(model, name, normals(keyOf(7, name), t.size, 0.05))
  return model
}

describe.each([1, 2, 3, 4] as const)("type %i", (type) => {
  it("is a LoRA: the same logits", async () => {
    const model = random(mora({ r: 4, type }))
    const ranks: Record<string, number> = {}
    const factors = new Map<string, Float32Array>()
    for (const path of model.view.adapters[0]?.sites.keys() ?? []) {
      const { rank, A, B, error } = await loraFactors(model, path)
      expect(error).toBe(0)
      ranks[path.replaceAll(".", "\\.")] = rank
      factors.set(`${path}.A`, A).set(`${path}.B`, B)
    }
    const plain = adapt(llama, lora({ rankPattern: ranks, alphaPattern: ranks }), { targetModules: "all-linear" })
    for (const [name, values] of factors) set(plain, name, values)
    const [ours, theirs] = [await logitsOf(model), await logitsOf(plain)]
    expect(largest(ours, theirs)).toBeLessThan(2e-5)
    expect(largest(ours, await logitsOf(llama))).toBeGreaterThan(0.1)
  })

  it("at a lower rank than it needs it is approximated", async () => {
    const model = random(mora({ r: 4, type }), ["q_proj"])
    const path = "model.layers.0.self_attn.q_proj"
    const [low, high] = [await loraFactors(model, path, { rank: 4 }), await loraFactors(model, path, { rank: 22 })]
    expect([low.rank, high.rank]).toEqual([4, 22])
    expect(low.error).toBeGreaterThan(high.error)
    expect(high.error).toBeGreaterThan(0)
    expect(low.error).toBeLessThan(1)
  })
})

it("rotation is approximated, the better the higher the rank, and exactly by all of it", async () => {
  const model = random(mora({ r: 4 }), ["v_proj"])
  const path = "model.layers.1.self_attn.v_proj"
  const errors: number[] = []
  for (const rank of [4, 16, 32]) {
    const { A, B, error } = await loraFactors(model, path, { rank })
    errors.push(error)
    if (rank < 32) continue
    const M = await trainables(model)
      .find((t) => t.name === `${path}.M`)
      ?.tensor.data()
    const delta = moraDelta("rotation", { in: 64, out: 32 }, M as Float32Array)
    const product = delta.map((_, at) =>
      Array.from(
        { length: 32 },
        (_, k) => (B[Math.floor(at / 64) * 32 + k] as number) * (A[k * 64 + (at % 64)] as number),
      ).reduce((a, b) => a + b),
    )
    expect(largest(product, delta)).toBeLessThan(1e-6)
  }
  expect(errors[0]).toBeGreaterThan(errors[1] as number)
  expect(errors[1]).toBeGreaterThan(0.01)
  expect(errors[2]).toBeLessThan(1e-6)
})

it.each([["q_proj"], ["embed_tokens"]])(
  "any method that merges is converted: a LoRA of rank 3 on %s comes back",
  async (target) => {
    const model = random(lora({ r: 3, alpha: 6 }), [target])
    for (const path of model.view.adapters[0]?.sites.keys() ?? []) {
      const { rank, error, A, B } = await loraFactors(model, path, { rank: 3 })
      expect(rank).toBe(3)
      expect(error).toBeLessThan(1e-5)
      const copy = adapt(llama, lora({ r: 3, alpha: 3 }), { targetModules: [path] })
      set(copy, `${path}.A`, A)
      set(copy, `${path}.B`, B)
      const alone = adapt(llama, lora({ r: 3, alpha: 6 }), { targetModules: [path] })
      for (const { name, tensor: t } of trainables(alone)) set(alone, name, normals(keyOf(7, name), t.size, 0.05))
      expect(largest(await logitsOf(copy), await logitsOf(alone))).toBeLessThan(1e-4)
    }
  },
)

it.each([1, 2, 3, 4, 6] as const)("singular values of type %i are those of the update", async (type) => {
  const model = random(mora({ r: 4, type }))
  for (const path of ["model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"]) {
    const { in: width, out } = llama.sites.get(path) ?? { in: 0, out: 0 }
    const M = (await trainables(model)
      .find((t) => t.name === `${path}.M`)
      ?.tensor.data()) as Float32Array
    const name = mora({ type }).config.type as Parameters<typeof moraDelta>[0]
    const { S } = truncatedSvd(moraDelta(name, { in: width, out }, M), out, width, out)
    const found = await deltaSpectrum(model, path)
    expect(largest(S.subarray(0, found.length), found)).toBeLessThan(1e-6)
    expect(S.reduce((sum, s) => sum + s * s, 0)).toBeCloseTo(
      found.reduce((sum, s) => sum + s * s, 0),
      6,
    )
  }
})

it("biases that are trained beside are no part of the update", async () => {
  const gpt2 = await loadCausalLM(commonFixture("models/gpt2"), { backend })
  const path = "transformer.h.0.attn.c_attn"
  const model = adapt(gpt2, lora({ r: 3, alpha: 6 }), { targetModules: ["c_attn"], bias: "all" })
  for (const { name, tensor: t } of trainables(model)) set(model, name, normals(keyOf(7, name), t.size, 0.05))
  expect((await loraFactors(model, path, { rank: 3 })).error).toBeLessThan(1e-5)
})

it("a layer without the adapter, and a method that does not merge, are refused", async () => {
  const model = random(mora({ r: 4 }), ["v_proj"])
  await expect(loraFactors(model, "lm_head")).rejects.toThrow(/E_ADAPTER_NAME/)
  const rigid = adapt(llama, { ...lora(), mergeable: false }, { targetModules: ["q_proj"] })
  await expect(loraFactors(rigid, "model.layers.0.self_attn.q_proj")).rejects.toThrow(/E_NOT_MERGEABLE/)
})

describe("the decomposition", () => {
  // Orthonormal columns times falling singular values times orthonormal rows: the vectors of a discrete cosine transform.
  const wave = (n: number, k: number): Float64Array =>
    Float64Array.from(
      { length: n },
      (_, i) => Math.sqrt((k === 0 ? 1 : 2) / n) * Math.cos((Math.PI * k * (i + 0.5)) / n),
    )
  const [rows, columns, depth] = [40, 60, 30]
  const sigma = Array.from({ length: depth }, (_, k) => 3 * 0.8 ** k)
  const matrix = Float64Array.from({ length: rows * columns }, (_, at) =>
    sigma.reduce(
      (sum, s, k) =>
        sum + s * (wave(rows, k)[Math.floor(at / columns)] as number) * (wave(columns, k)[at % columns] as number),
      0,
    ),
  )

  it("finds singular values and vectors", () => {
    const { U, S, V } = truncatedSvd(matrix, rows, columns, 8)
    expect(S).toHaveLength(8)
    for (const [k, s] of S.entries()) {
      expect(s / (sigma[k] as number)).toBeCloseTo(1, 5)
      const along = (v: Float64Array | undefined, w: Float64Array): number =>
        Math.abs(w.reduce((sum, x, i) => sum + x * (v?.[i] as number), 0))
      expect(along(U[k], wave(rows, k))).toBeCloseTo(1, 4)
      expect(along(V[k], wave(columns, k))).toBeCloseTo(1, 4)
    }
  })

  it("finds all singular values without vectors, also of the transposed matrix", () => {
    const turned = matrix.map((_, at) => matrix[(at % rows) * columns + Math.floor(at / rows)] as number)
    for (const found of [singularValues(matrix, rows, columns), singularValues(turned, columns, rows)]) {
      expect(found).toHaveLength(rows)
      for (const [k, s] of sigma.entries()) expect((found[k] as number) / s).toBeCloseTo(1, 8)
      expect(Math.max(...found.subarray(depth))).toBeLessThan(1e-6)
    }
  })

  it("and of a product without multiplying it out", () => {
    const [B, A] = [new Float64Array(rows * depth), new Float64Array(depth * columns)]
    for (const [k, s] of sigma.entries()) {
      wave(rows, k).forEach((x, r) => void B.fill(x * s, r * depth + k, r * depth + k + 1))
      A.set(wave(columns, k), k * columns)
    }
    const found = singularValuesOfProduct(B, A, depth)
    for (const [k, s] of sigma.entries()) expect((found[k] as number) / s).toBeCloseTo(1, 6)
  })

  it("takes apart what falls into blocks once it is sorted", () => {
    // Rows 0 and 2 with columns 1 and 3, row 1 with column 0; column 2 is empty.
    const apart = Float64Array.of(0, 3, 0, 0, 5, 0, 0, 0, 0, 0, 0, 4)
    const { U, S, V } = truncatedSvd(apart, 3, 4, 3)
    expect([...S].map((s) => Math.round(s * 1e9) / 1e9)).toEqual([5, 4, 3])
    const product = apart.map((_, at) =>
      S.reduce((sum, s, k) => sum + s * (U[k]?.[Math.floor(at / 4)] as number) * (V[k]?.[at % 4] as number), 0),
    )
    for (const [i, x] of apart.entries()) expect(product[i]).toBeCloseTo(x, 9)
    expect([...singularValues(apart, 3, 4)].map((s) => Math.round(s * 1e9) / 1e9)).toEqual([5, 4, 3])
  })

  it("leaves the vectors of nothing at zero, and gives no more than there are", () => {
    const { S, V } = truncatedSvd(new Float64Array(12), 3, 4, 9)
    expect([...S]).toEqual([0, 0, 0])
    expect(V.every((v) => v.every((x) => x === 0))).toBe(true)
  })
})
