/** Attention and its gradient against loops in f64: every way of cutting the scores into tiles, both ways of summing a row, every mask. */
import type { AttentionDims } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { type AttentionOptions, createAttention, createAttentionBackward } from "../src/attention.ts"
import { attentionTiles } from "../src/attention-tile.ts"
import { absent, openGpu } from "./gpu.ts"

const grouped: AttentionDims = { batch: 2, queries: 6, keys: 8, heads: 4, kvHeads: 2, dim: 4, scale: 0.5, offset: 2 }
const odd: AttentionDims = { batch: 1, queries: 9, keys: 11, heads: 3, kvHeads: 3, dim: 5, scale: 0.4, offset: 2 }
const one: AttentionDims = { batch: 3, queries: 1, keys: 7, heads: 2, kvHeads: 1, dim: 8, scale: 0.3, offset: 6 }
const longer: AttentionDims = { batch: 1, queries: 70, keys: 70, heads: 4, kvHeads: 2, dim: 16, scale: 0.25, offset: 0 }

function random(n: number, seed: number): Float32Array {
  let state = seed
  return Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 30 - 2
  })
}

type Arrays = Record<"q" | "k" | "v" | "dy", Float32Array>

/** y, dq, dk and dv by the definition. */
function byHand(d: AttentionDims, { q, k, v, dy }: Arrays, valid: Int32Array | undefined): Float64Array[] {
  const [y, dq, dk, dv] = [q, q, k, v].map((x) => new Float64Array(x.length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ]
  const dot = (a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number): number => {
    let sum = 0
    for (let c = 0; c < d.dim; c++) sum += (a[i + c] as number) * (b[j + c] as number)
    return sum
  }
  const add = (to: Float64Array, i: number, factor: number, from: ArrayLike<number>, j: number): void => {
    for (let c = 0; c < d.dim; c++) to[i + c] = (to[i + c] as number) + factor * (from[j + c] as number)
  }
  for (let row = 0; row < d.batch * d.queries * d.heads; row++) {
    const [h, i, b] = [row % d.heads, Math.floor(row / d.heads) % d.queries, Math.floor(row / d.heads / d.queries)]
    const key = (j: number): number => ((b * d.keys + j) * d.kvHeads + Math.floor((h * d.kvHeads) / d.heads)) * d.dim
    const all = Array.from({ length: d.keys }, (_, j) => j)
    const low = i + d.offset - (d.window ?? Number.POSITIVE_INFINITY)
    const seen = all.filter((j) => j <= i + d.offset && j > low && valid?.[b * d.keys + j] !== 0)
    const scores = seen.map((j) => d.scale * dot(q, row * d.dim, k, key(j)))
    const top = Math.max(...scores)
    const total = scores.reduce((sum, s) => sum + Math.exp(s - top), 0)
    const p = seen.length > 0 ? scores.map((s) => Math.exp(s - top) / total) : all.map(() => 1 / d.keys)
    const over = seen.length > 0 ? seen : all
    const dp = over.map((j) => dot(dy, row * d.dim, v, key(j)))
    const mean = p.reduce((sum, x, n) => sum + x * (dp[n] as number), 0)
    over.forEach((j, n) => {
      const x = p[n] as number
      add(y, row * d.dim, x, v, key(j))
      add(dv, key(j), x, dy, row * d.dim)
      const ds = seen.length > 0 ? x * ((dp[n] as number) - mean) * d.scale : 0
      add(dq, row * d.dim, ds, k, key(j))
      add(dk, key(j), ds, q, row * d.dim)
    })
  }
  return [y, dq, dk, dv]
}

async function check(d: AttentionDims, options: AttentionOptions = {}, valid?: Int32Array): Promise<void> {
  const gpu = await openGpu()
  const [qs, ks] = [d.batch * d.queries * d.heads * d.dim, d.batch * d.keys * d.kvHeads * d.dim]
  const arrays: Arrays = { q: random(qs, 1), k: random(ks, 2), v: random(ks, 3), dy: random(qs, 4) }
  const live = gpu.live()
  const [q, k, v, dy] = [arrays.q, arrays.k, arrays.v, arrays.dy].map((x) => gpu.upload(x, "f32")) as [
    never,
    never,
    never,
    never,
  ]
  const mask = valid && gpu.upload(valid, "i32")
  const run = () => [
    createAttention(gpu, options)(q, k, v, mask, d),
    ...createAttentionBackward(gpu, options)(q, k, v, mask, dy, d),
  ]
  const [outs, again] = [run(), run()]
  const wanted = byHand(d, arrays, valid)
  for (const [n, out] of outs.entries()) {
    const name = `${["y", "dq", "dk", "dv"][n]} of ${JSON.stringify({ ...d, ...options })}`
    const got = (await gpu.read(out)) as Float32Array
    expect(await gpu.read(again[n] as never), `${name}, again`).toEqual(got)
    const expected = wanted[n] as Float64Array
    const worst = got.reduce((most, x, i) => Math.max(most, Math.abs(x - (expected[i] as number))), 0)
    const size = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 1)
    expect(worst / size, name).toBeLessThan(2e-6)
  }
  for (const buffer of [q, k, v, dy, ...(mask ? [mask] : []), ...outs, ...again]) gpu.free(buffer)
  expect(gpu.live()).toBe(live)
}

describe.skipIf(absent !== undefined)("attention", () => {
  for (const lanes of [1, 64]) {
    it(`heads, odd sizes, a cache before; ${lanes} lanes`, async () => {
      for (const d of [grouped, odd, one, longer]) await check(d, { lanes })
    }, 60_000)

    it(`masks; ${lanes} lanes`, async () => {
      await check({ ...grouped, window: 3 }, { lanes })
      await check({ ...grouped, window: 0 }, { lanes })
      await check({ ...grouped, offset: -2 }, { lanes })
      const valid = Int32Array.of(0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0)
      await check(grouped, { lanes }, valid)
      await check({ ...grouped, offset: 0, window: 2 }, { lanes }, valid)
    }, 60_000)
  }

  it("tiles of batches, key-value heads, members of a group, queries", async () => {
    const valid = Int32Array.from({ length: 16 }, (_, i) => Number(i % 5 !== 0))
    // One batch has 4 · 6 · 8 = 192 scores; the gradient keeps two copies of 4 bytes each.
    for (const scores of [192, 100, 50, 17, 1]) await check(grouped, { scratchBytes: scores * 8 }, valid)
  }, 60_000)

  it("no score", async () => {
    await check({ ...grouped, keys: 0 })
    await check({ ...grouped, queries: 0 })
    await check({ ...grouped, batch: 0 })
  })
})

describe("tiles of attention", () => {
  it("cover every score once and stay within their room", () => {
    for (const room of [1, 7, 8, 40, 48, 96, 200, 384, 1000]) {
      const seen = new Map<string, number>()
      for (const t of attentionTiles(grouped, room)) {
        const size = t.batches * t.kvHeads * t.members * t.queries
        expect(size * grouped.keys).toBeLessThanOrEqual(Math.max(room, grouped.keys))
        for (let b = 0; b < t.batches; b++)
          for (let h = 0; h < t.kvHeads; h++)
            for (let m = 0; m < t.members; m++)
              for (let i = 0; i < t.queries; i++) {
                const name = `${t.batch + b} ${t.kvHead + h} ${t.member + m} ${t.query + i}`
                seen.set(name, (seen.get(name) ?? 0) + 1)
              }
      }
      expect(seen.size).toBe(2 * 2 * 2 * 6)
      expect([...seen.values()].every((n) => n === 1)).toBe(true)
    }
  })
})
