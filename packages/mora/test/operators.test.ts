/** The operators by recorded numbers: outputs, gradients, the matrix they add, and the exact LoRA of it (fixtures: an independent implementation in torch). */
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import { fakeBackend } from "@peftjs/conformance"
import {
  type Backend,
  engineOf,
  free,
  type Init,
  makeInit,
  type Site,
  type Tensor,
  tensor,
  valueAndGradients,
} from "@peftjs/core"
import { parseSafetensors } from "@peftjs/safetensors"
import { describe, expect, it } from "vitest"
import { matrixSize, mora, moraDelta, moraFactors } from "../src/index.ts"
import { type MoraNumber, typeOf } from "../src/types.ts"
import { largest } from "./helpers.ts"

const folder = fileURLToPath(new URL("fixtures/operators/", import.meta.url))
interface Statistics {
  readonly sum: number
  readonly abs_sum: number
  readonly l2: number
  readonly first: number
  readonly last: number
}
interface Case {
  readonly in: number
  readonly out: number
  readonly r: number
  readonly R: number
  readonly M: string
  readonly delta: Statistics
  readonly delta_rank: number
}
interface Expected {
  readonly golden: readonly { n_in: number; n_out: number; r: number; divide: number; y: Record<string, number[]> }[]
  readonly cases: Readonly<Record<string, Case>>
  readonly tolerance: { readonly y_abs: number; readonly delta_abs: number; readonly grad_rel_to_max: number }
}
const expected = JSON.parse(readFileSync(`${folder}expected.json`, "utf8")) as Expected
const { tensors } = parseSafetensors(readFileSync(`${folder}operators.safetensors`))
const values = (name: string): Float32Array => {
  const found = tensors.get(name)
  if (!found) throw new Error(`no tensor ${name}`)
  return Float32Array.from(found.data as Float32Array)
}
const { y_abs, delta_abs, grad_rel_to_max } = expected.tolerance

const siteOf = (sizes: { in: number; out: number }): Site => ({ path: "x", kind: "linear", ...sizes }) as Site
/** The adapter over a layer that gives zeros. */
function update(backend: Backend, type: MoraNumber, site: Site, x: Tensor, M: Tensor): Tensor {
  const context = {
    site,
    dropout: (t: Tensor) => t,
    constant: (_: string, make: (init: Init) => Tensor) => make(makeInit(backend, 0, "")),
  }
  const none = (t: Tensor): Tensor =>
    t.sum(1, { keepdims: true }).mul(tensor(backend, new Float32Array(site.out), [site.out]))
  return mora({ type }).forward(x, none, { M }, context as never)
}

describe.each(Object.entries(expected.cases))("%s", (name, { in: width, out, r, R, M: key, delta, delta_rank }) => {
  const [shape, number] = [name.split(".")[0], Number(name.at(-1)) as MoraNumber]
  const type = typeOf(number)
  const site = siteOf({ in: width, out })
  const M = values(key)
  const scale = (of: Float32Array): number => of.reduce((m, g) => Math.max(m, Math.abs(g)), 0)

  it("the matrix has the recorded size", () => expect(matrixSize(site, r, number === 6)).toBe(R))

  it.each([
    ["cpu", () => cpu({ kernels: "reference" })],
    ["fake", fakeBackend],
  ] as const)("output and gradients on %s", async (_, make) => {
    const backend = await make()
    const parameter = (data: Float32Array, shape: number[]): Tensor => {
      const made = tensor(backend, data, shape)
      made.requiresGrad = true
      return made
    }
    const [x, m] = [parameter(values(`${shape}.x`), [3, width]), parameter(M, [R, R])]
    const y = update(backend, number, site, x, m)
    expect(largest(await y.data(), values(`${name}.y`))).toBeLessThan(y_abs)
    const dy = tensor(backend, values(`${name}.grad_y`), [3, out])
    const { value, gradients } = valueAndGradients(engineOf(backend), () =>
      update(backend, number, site, x, m).mul(dy).sum(),
    )
    for (const [tensor, path] of [
      [x, `${name}.grad_x`],
      [m, `${name}.grad_M`],
    ] as const) {
      const ours = (await gradients.get(tensor)?.data()) ?? []
      expect(largest(ours, values(path)) / scale(values(path)), path).toBeLessThan(grad_rel_to_max)
    }
    for (const t of [value, ...gradients.values()]) free(t)
  })

  it("the matrix it adds", () => {
    const ours = moraDelta(type, site, M)
    const total = (f: (x: number) => number): number => ours.reduce((sum, x) => sum + f(x), 0)
    const size = Math.sqrt(ours.length)
    expect(Math.abs((ours[0] as number) - delta.first)).toBeLessThan(delta_abs)
    expect(Math.abs((ours.at(-1) as number) - delta.last)).toBeLessThan(delta_abs)
    expect(Math.abs(total((x) => x) - delta.sum) / size).toBeLessThan(delta_abs)
    expect(Math.abs(total(Math.abs) - delta.abs_sum) / size).toBeLessThan(delta_abs)
    expect(Math.abs(Math.sqrt(total((x) => x * x)) - delta.l2)).toBeLessThan(delta_abs * 10)
    if (tensors.has(`${name}.delta`)) expect(largest(ours, values(`${name}.delta`))).toBeLessThan(delta_abs)
    else {
      const ends = [...ours.subarray(0, width), ...ours.subarray(-width)]
      expect(largest(ends, values(`${name}.delta_first_and_last_row`))).toBeLessThan(delta_abs)
    }
    expect(delta_rank).toBeLessThanOrEqual(number === 6 ? Math.min(width, out) : R)
  })

  if (number === 6) {
    it("is no LoRA of rank R", () => expect(() => moraFactors(type, site, M)).toThrow(/E_OPTION/))
    return
  }
  it("is the recorded LoRA", () => {
    const { rank, A, B } = moraFactors(type, site, M)
    expect(rank).toBe(R)
    if (tensors.has(`${name}.lora_A`)) expect(largest(A, values(`${name}.lora_A`))).toBeLessThan(delta_abs)
    const index = tensors.get(`${name}.lora_B_index`)?.data as Int32Array
    if (index) {
      const ones = new Float32Array(out * R)
      for (const [row, column] of index.entries()) ones[row * R + column] = 1
      expect(B).toEqual(ones)
    }
    const product = Float32Array.from({ length: out * width }, (_, at) => {
      const [row, column] = [Math.floor(at / width), at % width]
      return Array.from({ length: R }, (_, k) => (B[row * R + k] as number) * (A[k * width + column] as number)).reduce(
        (a, b) => a + b,
      )
    })
    expect(largest(product, moraDelta(type, site, M))).toBe(0)
  })
})

describe("vectors that can be checked by hand: M = 1…R² divided, x = 1…in", () => {
  for (const { n_in, n_out, r, divide, y } of expected.golden)
    for (const [number, wanted] of Object.entries(y))
      it(`${n_in} to ${n_out} features, type ${number}`, async () => {
        const backend = await cpu({ kernels: "reference" })
        const site = siteOf({ in: n_in, out: n_out })
        const R = matrixSize(site, r, number === "6")
        const M = tensor(
          backend,
          Array.from({ length: R * R }, (_, i) => (i + 1) / divide),
          [R, R],
        )
        const x = tensor(
          backend,
          Array.from({ length: n_in }, (_, i) => i + 1),
          [1, n_in],
        )
        const ours = await update(backend, Number(number) as MoraNumber, site, x, M).data()
        expect(largest(ours, wanted)).toBeLessThan(y_abs)
      })
})
