/**
 * PiSSA (Meng et al. 2024, arXiv 2404.02948): y = (W - B A) x + B A x, where B A is the best approximation of W of rank r. What is left of W
 * stands in for it, so the start reads the base, and a loaded adapter is prepared again.
 */
import { type AdapterFormat, type AdapterMethod, adaptAsync, normals, param, type Tensor } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { fakeBackend, testAdapter, toyModel } from "../../src/index.ts"

const sum = (n: number, at: (i: number) => number): number => {
  let total = 0
  for (let i = 0; i < n; i++) total += at(i)
  return total
}
const filled = (n: number, at: (i: number) => number): Float32Array => Float32Array.from({ length: n }, (_, i) => at(i))

/** The largest singular triple of a [rows, columns] matrix by power iteration, its value shared by both vectors. */
function largest(
  w: Float32Array,
  rows: number,
  columns: number,
): { readonly b: Float32Array; readonly a: Float32Array } {
  const at = (i: number, j: number): number => w[i * columns + j] as number
  const image = (v: Float32Array): Float32Array => filled(rows, (i) => sum(columns, (j) => at(i, j) * (v[j] as number)))
  let right = normals([1, 2], columns, 1)
  for (let step = 0; step < 50; step++) {
    const left = image(right)
    const back = filled(columns, (j) => sum(rows, (i) => at(i, j) * (left[i] as number)))
    const norm = Math.hypot(...back)
    right = back.map((x) => x / norm)
  }
  const left = image(right)
  const root = Math.sqrt(Math.hypot(...left))
  return { b: left.map((x) => x / root), a: right.map((x) => x * root) }
}

function pissa({ r }: { r: number }): AdapterMethod {
  return {
    ...{ kind: "site", specVersion: 1, name: "pissa", config: { r }, sites: ["linear"], mergeable: true, format },
    prepare({ site, values }) {
      const [rows, columns] = [site.out, site.in]
      const [A, B] = [new Float32Array(r * columns), new Float32Array(rows * r)]
      let residual = values
      for (let k = 0; k < r; k++) {
        const { b, a } = largest(residual, rows, columns)
        A.set(a, k * columns)
        for (const [i, x] of b.entries()) B[i * r + k] = x
        residual = residual.map((x, i) => x - (b[Math.floor(i / columns)] as number) * (a[i % columns] as number))
      }
      return { start: { A, B }, residual }
    },
    init: ({ site, start, init }) => ({
      params: {
        A: param(init.tensor(start.A as Float32Array, [r, site.in])),
        B: param(init.tensor(start.B as Float32Array, [site.out, r])),
      },
    }),
    forward: (x, next, { A, B }) => next(x).add(x.matmul((A as Tensor).T).matmul((B as Tensor).T)),
  }
}

const format: AdapterFormat = {
  peftType: "PISSA",
  defaults: { r: 8 },
  supported: ["r"],
  read: ({ r }) => pissa({ r: Number(r) }),
  write: ({ config }) => ({ r: config.r }),
  tensorName: (name) => `pissa_${name}.weight`,
}

const backends = { fake: fakeBackend, "fake, small": () => fakeBackend({ maxBufferBytes: 1664 }) }
testAdapter(pissa({ r: 2 }), {
  ...{ describe, it, name: "PiSSA sketch", backends },
  savedAs: ["pissa_A.weight", "pissa_B.weight"],
})

it("what cannot be put on is refused before anything of the base is read", async () => {
  const read: string[] = []
  const method: AdapterMethod = {
    ...pissa({ r: 2 }),
    prepare({ site, values, stored }) {
      read.push(site.path)
      return pissa({ r: 2 }).prepare?.({ site, values, stored }) ?? { start: {} }
    },
  }
  const model = toyModel(fakeBackend())
  const all = ["up_proj", "embed_tokens"]
  await expect(adaptAsync(model, method, { targetModules: all })).rejects.toThrow(
    /embed_tokens is of kind.*E_SITE_KIND/,
  )
  await expect(adaptAsync(model, method, { name: "a/b", targetModules: ["up_proj"] })).rejects.toThrow(/E_ADAPTER_NAME/)
  expect(read).toEqual([])
  const view = await adaptAsync(model, method, { targetModules: ["up_proj"] })
  await expect(adaptAsync(view, method, { targetModules: ["up_proj"] })).rejects.toThrow(/E_ADAPTER_NAME/)
  expect(read).toEqual(["model.layers.0.up_proj"])
})
