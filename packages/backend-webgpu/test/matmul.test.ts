/** Every matmul variant against a plain loop in f64: transposition flags, element types, edges of tiles, larger shapes; and what is chosen when. */
import { describe, expect, it } from "vitest"
import type { Gpu } from "../src/gpu.ts"
import { createMatmul } from "../src/matmul.ts"
import { choose, type MatmulVariant } from "../src/matmul-choose.ts"
import { denseProduct } from "../src/matmul-product.ts"
import type { Runtime } from "../src/runtime.ts"
import { absent, openGpu } from "./gpu.ts"

type Dims = readonly [batch: number, m: number, n: number, k: number]
type Half = "f32" | "bf16" | "f16"

const edges: readonly Dims[] = [
  [1, 1, 1, 1],
  [1, 2, 3, 0],
  [1, 1, 7, 5],
  [1, 1, 9, 300],
  [1, 8, 1, 4],
  [3, 5, 3, 7],
  [2, 9, 17, 6],
  [1, 33, 31, 65],
  [5, 16, 12, 9],
  [1, 2, 6, 1000],
]
const larger: readonly Dims[] = [
  [1, 66, 70, 129],
  [1, 64, 96, 160],
  [2, 32, 8, 576],
  [1, 8, 200, 64],
]
const flags = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const

/** Deterministic numbers of [-1, 1) as stored in a type, and what they stand for. */
function random(n: number, dtype: Half, seed: number): { data: Float32Array | Uint16Array; values: Float64Array } {
  let state = seed
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  }
  const floats = Float32Array.from({ length: n }, next)
  if (dtype === "f32") return { data: floats, values: Float64Array.from(floats) }
  if (dtype === "bf16") {
    const data = Uint16Array.from(new Uint32Array(floats.buffer), (word) => word >>> 16)
    return { data, values: Float64Array.from(new Float32Array(Uint32Array.from(data, (h) => h << 16).buffer)) }
  }
  const data = Uint16Array.from(floats, (x) => Math.floor(Math.abs(x) * 0x7bff) + (x < 0 ? 0x8000 : 0))
  return { data, values: Float64Array.from(data, halfValue) }
}

function halfValue(pattern: number): number {
  const [exponent, fraction] = [(pattern >> 10) & 31, pattern & 1023]
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return pattern >= 0x8000 ? -size : size
}

async function check(
  gpu: Runtime,
  variant: MatmulVariant | undefined,
  dims: Dims,
  [transA, transB]: readonly [boolean, boolean],
  [ta, tb]: readonly [Half, Half] = ["f32", "f32"],
): Promise<void> {
  const [batch, m, n, k] = dims
  const [x, y] = [random(batch * m * k, ta, 1), random(batch * n * k, tb, 2)]
  const [a, b] = [gpu.upload(x.data, ta), gpu.upload(y.data, tb)]
  const multiply = createMatmul(gpu, variant === undefined ? {} : { variant })
  const [out, again] = [0, 1].map(() => multiply(a, b, { batch, m, n, k, transA, transB })) as [never, never]
  const [got, twice] = [await gpu.read(out), await gpu.read(again)]
  for (const buffer of [a, b, out, again]) gpu.free(buffer)
  const name = `${variant} ${dims} ${transA} ${transB} ${ta} ${tb}`
  expect(Buffer.compare(new Uint8Array(twice.buffer), new Uint8Array(got.buffer)), name).toBe(0)
  let worst = 0
  for (let at = 0; at < batch * m * n; at++) {
    const [j, i, z] = [at % n, Math.floor(at / n) % m, Math.floor(at / n / m)]
    let [sum, size] = [0, 0]
    for (let p = 0; p < k; p++) {
      const u = x.values[z * m * k + (transA ? p * m + i : i * k + p)] as number
      const term = u * (y.values[z * n * k + (transB ? j * k + p : p * n + j)] as number)
      sum += term
      size += Math.abs(term)
    }
    worst = Math.max(worst, Math.abs((got[at] as number) - sum) / (size || 1))
  }
  // Every product and every partial sum is rounded once: far below k · 2⁻²⁴ of the sum of the terms' sizes.
  expect(worst, name).toBeLessThan(2e-6)
}

const variants: readonly (MatmulVariant | undefined)[] = [
  undefined,
  "register",
  "large-register",
  "tiled",
  "split",
  "vector",
]

describe.skipIf(absent !== undefined)("matmul", () => {
  for (const variant of variants) {
    it(`${variant ?? "the chosen one"}: edges and flags`, async () => {
      const gpu = await openGpu()
      for (const dims of edges) for (const f of flags) await check(gpu, variant, dims, f)
    }, 120_000)

    it(`${variant ?? "the chosen one"}: larger shapes`, async () => {
      const gpu = await openGpu()
      for (const dims of larger) for (const f of flags) await check(gpu, variant, dims, f)
    }, 120_000)

    it(`${variant ?? "the chosen one"}: 16-bit operands`, async () => {
      const gpu = await openGpu()
      for (const half of ["bf16", "f16"] as const) {
        // One shape with edges and one without; each pair of types and flags is compiled once.
        for (const [m, n, k] of [
          [1, 9, 300],
          [64, 64, 72],
        ] as const) {
          await check(gpu, variant, [1, m, n, k], [false, half === "bf16"], ["f32", half])
          await check(gpu, variant, [1, m, n, k], [true, half === "f16"], [half, "f32"])
        }
      }
    }, 120_000)
  }

  it("f16 of every pattern that is a number", async () => {
    const gpu = await openGpu()
    const data = Uint16Array.from({ length: 0x10000 }, (_, i) => i).filter((h) => ((h >> 10) & 31) !== 31)
    const [a, b] = [gpu.upload(data, "f16"), gpu.upload(Float32Array.of(1), "f32")]
    const out = createMatmul(gpu)(a, b, { batch: 1, m: data.length, n: 1, k: 1, transA: false, transB: false })
    expect(await gpu.read(out)).toEqual(Float32Array.from(data, (h) => halfValue(h) || 0))
  })
})

describe("the choice of a matmul", () => {
  const features: Gpu["features"] = { subgroups: false, f16: false, software: false }
  const buffer = { dtype: "f32", length: 0, memory: undefined } as const
  const of = (dims: Dims, transB = true, software = false): MatmulVariant => {
    const [batch, m, n, k] = dims
    const product = denseProduct(buffer, buffer, buffer, { batch, m, n, k, transA: false, transB })
    return choose({ features: { ...features, software }, maxBufferBytes: 2 ** 28 }, product).variant
  }

  it("follows the shape on a GPU", () => {
    expect(of([1, 1024, 1024, 1024])).toBe("tiled")
    expect(of([1, 1, 576, 1536])).toBe("vector")
    expect(of([1, 1, 576, 1536], false)).toBe("split")
    expect(of([1, 128, 8, 576])).toBe("split")
    expect(of([1, 128, 576, 8])).toBe("tiled")
    expect(of([64, 5, 5, 64])).toBe("register")
  })

  it("uses registers alone where a CPU plays the GPU", () => {
    expect(of([1, 1024, 1024, 1024], true, true)).toBe("large-register")
    expect(of([1, 1, 576, 1536], true, true)).toBe("register")
    expect(of([1, 128, 8, 576], true, true)).toBe("register")
  })

  it("keeps partial sums within a buffer's limit", () => {
    const dims = { batch: 1, m: 128, n: 8, k: 576, transA: false, transB: true }
    const limited = { features, maxBufferBytes: 4096 }
    expect(choose(limited, denseProduct(buffer, buffer, buffer, dims)).variant).toBe("register")
  })
})
