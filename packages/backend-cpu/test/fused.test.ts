import type { AttentionDims } from "@peftjs/core"
import { describe, expect, test } from "vitest"
import { cpu } from "../src/index.ts"
import { distance, numbers, upload, values } from "./helpers.ts"

const backend = await cpu()
const { softmax, rmsNorm, rmsNormBackward, attention, attentionBackward, adamw } = backend.kernels as Required<
  typeof backend.kernels
>

test("the reference has no fused kernels, the others have", async () => {
  const names = [
    ...(["softmax", "logSumExp", "rmsNorm", "rmsNormBackward", "layerNorm", "layerNormBackward"] as const),
    ...(["rope", "attention", "attentionBackward", "adamw"] as const),
  ] as const
  const reference = await cpu({ kernels: "reference" })
  for (const name of names) {
    expect(reference.kernels[name]).toBeUndefined()
    expect(backend.kernels[name]).toBeDefined()
  }
})

test.each([
  [1, 1],
  [3, 7],
  [2, 1000],
  [0, 5],
  [4, 0],
])("softmax [%i, %i]", async (rows, n) => {
  const x = numbers(rows * n).map((v) => v * 40)
  const expected = Array.from({ length: rows }, (_, r) => {
    const row = [...x.subarray(r * n, (r + 1) * n)]
    const max = Math.max(...row)
    const e = row.map((v) => Math.exp(v - max))
    const sum = e.reduce((a, b) => a + b, 0)
    return e.map((v) => v / sum)
  }).flat()
  const input = upload(backend, x)
  expect(distance(await values(backend, softmax(input, rows, n)), expected)).toBeLessThan(1e-7)
  expect(await backend.read(input)).toEqual(x)
})

/** Derivative of f along each element of x, in f64. */
function slopes(f: (x: Float64Array) => number, x: Float32Array): number[] {
  const h = 1e-5
  return [...x].map((value, i) => {
    const at = (v: number): number => {
      const moved = Float64Array.from(x)
      moved[i] = v
      return f(moved)
    }
    return (at(value + h) - at(value - h)) / (2 * h)
  })
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((s, v, i) => s + v * (b[i] as number), 0)

test("logSumExp of NaN is NaN, so that a loss shows it", async () => {
  const { logSumExp } = backend.kernels as Required<typeof backend.kernels>
  const low = Number.NEGATIVE_INFINITY
  const rows = [
    Float32Array.of(1, Number.NaN, 2),
    Float32Array.of(Number.NaN, low, low),
    Float32Array.of(low, low, low),
  ]
  const found = await Promise.all(
    rows.map(async (x) => (await values(backend, logSumExp(upload(backend, x), 1, 3)))[0]),
  )
  expect(found).toEqual([Number.NaN, Number.NaN, low])
})

describe("rmsNorm", () => {
  const naive = (x: ArrayLike<number>, w: ArrayLike<number>, rows: number, n: number, eps: number): number[] =>
    Array.from({ length: rows }, (_, r) => {
      const row = Array.from(x).slice(r * n, (r + 1) * n)
      const scale = 1 / Math.sqrt(dot(row, row) / n + eps)
      return row.map((v, i) => v * scale * (w[i] as number))
    }).flat()

  test.each([
    [1, 1],
    [3, 5],
    [2, 577],
    [0, 4],
  ])("[%i, %i], forward and gradient", async (rows, n) => {
    const [x, w, dy] = [numbers(rows * n, 1), numbers(n, 2), numbers(rows * n, 3)]
    const dims = { rows, n, eps: 1e-3 }
    const [bx, bw] = [upload(backend, x), upload(backend, w)]
    expect(distance(await values(backend, rmsNorm(bx, bw, dims)), naive(x, w, rows, n, 1e-3))).toBeLessThan(2e-7)
    if (n > 100) return
    const dx = await values(backend, rmsNormBackward(bx, bw, upload(backend, dy), dims))
    expect(
      distance(
        dx,
        slopes((moved) => dot(naive(moved, w, rows, n, 1e-3), dy), x),
      ),
    ).toBeLessThan(1e-6)
  })
})

describe("attention", () => {
  function naive(
    q: ArrayLike<number>,
    k: ArrayLike<number>,
    v: ArrayLike<number>,
    valid: number[] | undefined,
    d: AttentionDims,
  ): number[] {
    const out: number[] = []
    for (let b = 0; b < d.batch; b++) {
      for (let i = 0; i < d.queries; i++) {
        for (let h = 0; h < d.heads; h++) {
          const kv = Math.floor((h * d.kvHeads) / d.heads)
          const at = (j: number, x: number): number => ((b * d.keys + j) * d.kvHeads + kv) * d.dim + x
          const scores = Array.from({ length: d.keys }, (_, j) => {
            const seen = j <= i + d.offset && j > i + d.offset - (d.window ?? Infinity) && valid?.[b * d.keys + j] !== 0
            if (!seen) return -Infinity
            let s = 0
            for (let x = 0; x < d.dim; x++)
              s += (q[((b * d.queries + i) * d.heads + h) * d.dim + x] as number) * (k[at(j, x)] as number)
            return s * d.scale
          })
          const max = Math.max(...scores)
          const e = scores.map((s) => (max === -Infinity ? 1 : Math.exp(s - max)))
          const sum = e.reduce((a, b) => a + b, 0)
          for (let x = 0; x < d.dim; x++) out.push(e.reduce((s, p, j) => s + (p / sum) * (v[at(j, x)] as number), 0))
        }
      }
    }
    return out
  }

  const base = { batch: 2, queries: 5, keys: 5, heads: 2, kvHeads: 2, dim: 3, scale: 0.6, offset: 0 }
  const cases: [string, AttentionDims, number[]?][] = [
    ["causal", base],
    ["one query, one key", { ...base, queries: 1, keys: 1 }],
    ["grouped heads", { ...base, heads: 6, kvHeads: 2 }],
    ["after a cache", { ...base, queries: 2, keys: 7, offset: 5 }],
    ["window", { ...base, queries: 7, keys: 7, window: 3 }],
    ["window after a cache", { ...base, queries: 2, keys: 7, offset: 5, window: 2 }],
    ["left padding: the first queries see nothing", base, [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]],
    ["right padding and a hole", base, [1, 0, 1, 1, 0, 1, 1, 1, 0, 0]],
    ["a sequence that is all padding", { ...base, heads: 4, kvHeads: 1 }, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]],
    ["keys begin after the queries", { ...base, offset: -2 }],
    ["window moves past all keys", { ...base, queries: 6, keys: 3, window: 2 }],
    ["several tiles", { ...base, batch: 1, queries: 70, keys: 70, heads: 1, kvHeads: 1, dim: 2 }],
    [
      "several tiles in a window",
      { ...base, batch: 1, queries: 140, keys: 140, heads: 1, kvHeads: 1, dim: 1, window: 9 },
    ],
    ["no queries", { ...base, queries: 0 }],
  ]

  function operands(d: AttentionDims): [Float32Array, Float32Array, Float32Array, Float32Array] {
    const [nq, nk] = [d.batch * d.queries * d.heads * d.dim, d.batch * d.keys * d.kvHeads * d.dim]
    return [numbers(nq, 1), numbers(nk, 2), numbers(nk, 3), numbers(nq, 4)]
  }

  test.each(cases)("%s: equal to the naive sum", async (_, d, valid) => {
    const [q, k, v] = operands(d)
    const mask = valid && upload(backend, valid, "i32")
    const out = attention(upload(backend, q), upload(backend, k), upload(backend, v), mask, d)
    expect(distance(await values(backend, out), naive(q, k, v, valid, d))).toBeLessThan(5e-7)
  })

  test.each(cases)("%s: gradients equal finite differences", async (_, d, valid) => {
    const [q, k, v, dy] = operands(d)
    const mask = valid && upload(backend, valid, "i32")
    const gradients = attentionBackward(
      upload(backend, q),
      upload(backend, k),
      upload(backend, v),
      mask,
      upload(backend, dy),
      d,
    )
    const loss = [
      (x: ArrayLike<number>) => dot(naive(x, k, v, valid, d), dy),
      (x: ArrayLike<number>) => dot(naive(q, x, v, valid, d), dy),
      (x: ArrayLike<number>) => dot(naive(q, k, x, valid, d), dy),
    ]
    const at = [q, k, v]
    for (let i = 0; i < 3; i++) {
      const gradient = await values(backend, gradients[i] as (typeof gradients)[0])
      const expected = slopes(loss[i] as (x: Float64Array) => number, at[i] as Float32Array)
      expect(distance(gradient, expected)).toBeLessThan(2e-6)
    }
  })

  test("reused memory with NaN in it does not show", async () => {
    const d = { ...base, queries: 70, keys: 70 }
    const [q, k, v, dy] = operands(d)
    const run = () => {
      const [a, b, c, g] = [q, k, v, dy].map((x) => upload(backend, x))
      if (!a || !b || !c || !g) throw new Error()
      return [attention(a, b, c, undefined, d), ...attentionBackward(a, b, c, undefined, g, d)]
    }
    const first = run()
    const expected = await Promise.all(first.map((x) => values(backend, x)))
    for (const x of first) backend.free(x)
    for (const x of expected.map((e) => upload(backend, new Float32Array(e.length).fill(NaN)))) backend.free(x)
    expect(await Promise.all(run().map((x) => values(backend, x)))).toEqual(expected)
  })
})

test("adamw follows PyTorch's formula", async () => {
  const n = 33
  const [p, g] = [numbers(n, 1), numbers(n, 2)]
  const buffers = [p, g, new Float32Array(n), new Float32Array(n)].map((x) => upload(backend, x))
  const [bp, bg, bm, bv] = buffers as [
    (typeof buffers)[0],
    (typeof buffers)[0],
    (typeof buffers)[0],
    (typeof buffers)[0],
  ]
  const state = Array.from(p, (value) => ({ p: value, m: 0, v: 0 }))
  const [lr, b1, b2, eps, wd, clip] = [0.01, 0.9, 0.999, 1e-8, 0.1, 0.5]
  for (let t = 1; t <= 3; t++) {
    const [c1, c2] = [1 - b1 ** t, 1 - b2 ** t]
    adamw(bp, bg, bm, bv, {
      learningRate: lr,
      beta1: b1,
      beta2: b2,
      epsilon: eps,
      weightDecay: wd,
      correction1: c1,
      correction2: c2,
      gradScale: clip,
    })
    state.forEach((s, i) => {
      const grad = (g[i] as number) * clip
      s.p -= lr * wd * s.p
      s.m += (1 - b1) * (grad - s.m)
      s.v = b2 * s.v + (1 - b2) * grad ** 2
      s.p -= ((lr / c1) * s.m) / (Math.sqrt(s.v) / Math.sqrt(c2) + eps)
    })
  }
  expect(
    distance(
      await values(backend, bp),
      state.map((s) => s.p),
    ),
  ).toBeLessThan(2e-7)
  expect(
    distance(
      await values(backend, bm),
      state.map((s) => s.m),
    ),
  ).toBeLessThan(2e-7)
  expect(
    distance(
      await values(backend, bv),
      state.map((s) => s.v),
    ),
  ).toBeLessThan(2e-7)
  expect(await values(backend, bg)).toEqual([...g])
})
