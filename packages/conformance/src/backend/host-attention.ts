/** Attention and its gradient in f64, one query at a time: the oracle of the fused kernels. Of core it uses the shapes' names alone. */
import type { AttentionDims } from "@peftjs/core"
import { softmaxOf } from "./host.ts"

type Numbers = ArrayLike<number>

export interface AttentionOperands {
  readonly q: Numbers
  readonly k: Numbers
  readonly v: Numbers
  /** [batch, keys]; keys that hold 0 are hidden. */
  readonly valid?: Numbers
}

/** A query's weights over the keys, and where its numbers and those of its keys begin. */
interface Query {
  readonly at: number
  /** Of key j, in k and in v. */
  keyAt(j: number): number
  /** None of a hidden key; equal ones where all are hidden. */
  readonly weights: readonly number[]
  sees(j: number): boolean
}

function forEachQuery(x: AttentionOperands, dims: AttentionDims, body: (query: Query) => void): void {
  const { batch, queries, keys, heads, kvHeads, dim, scale, offset, window = Number.POSITIVE_INFINITY } = dims
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < queries; i++) {
      for (let h = 0; h < heads; h++) {
        const at = ((b * queries + i) * heads + h) * dim
        const shared = Math.floor(h / (heads / kvHeads))
        const keyAt = (j: number): number => ((b * keys + j) * kvHeads + shared) * dim
        const shown = (j: number): boolean => x.valid === undefined || x.valid[b * keys + j] !== 0
        const sees = (j: number): boolean => j <= i + offset && j > i + offset - window && shown(j)
        const score = (j: number): number => (sees(j) ? scale * dot(x.q, at, x.k, keyAt(j), dim) : -1e30)
        body({ at, keyAt, sees, weights: softmaxOf(keys, score) })
      }
    }
  }
}

function dot(a: Numbers, aAt: number, b: Numbers, bAt: number, n: number): number {
  let sum = 0
  for (let d = 0; d < n; d++) sum += (a[aAt + d] as number) * (b[bAt + d] as number)
  return sum
}

/** to[toAt…] += factor · from[fromAt…], n numbers. */
function addScaled(to: Float64Array, toAt: number, from: Numbers, fromAt: number, factor: number, n: number): void {
  for (let d = 0; d < n; d++) to[toAt + d] = (to[toAt + d] as number) + factor * (from[fromAt + d] as number)
}

export function attentionRows(x: AttentionOperands, dims: AttentionDims): Float64Array {
  const out = new Float64Array(x.q.length)
  forEachQuery(x, dims, ({ at, keyAt, weights }) => {
    for (const [j, p] of weights.entries()) addScaled(out, at, x.v, keyAt(j), p, dims.dim)
  })
  return out
}

/** [dq, dk, dv]. */
export function attentionBackwardRows(
  x: AttentionOperands,
  dy: Numbers,
  dims: AttentionDims,
): readonly [Float64Array, Float64Array, Float64Array] {
  const { dim, scale } = dims
  const [dq, dk, dv] = [x.q, x.k, x.v].map((t) => new Float64Array(t.length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ]
  forEachQuery(x, dims, ({ at, keyAt, weights, sees }) => {
    const dp = weights.map((_, j) => dot(dy, at, x.v, keyAt(j), dim))
    const mean = weights.reduce((sum, p, j) => sum + p * (dp[j] as number), 0)
    for (const [j, p] of weights.entries()) {
      addScaled(dv, keyAt(j), dy, at, p, dim)
      if (!sees(j)) continue
      const ds = p * ((dp[j] as number) - mean) * scale
      addScaled(dq, at, x.k, keyAt(j), ds, dim)
      addScaled(dk, keyAt(j), x.q, at, ds, dim)
    }
  })
  return [dq, dk, dv]
}
