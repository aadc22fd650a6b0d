/**
 * The part of attention that forward and backward share: the probabilities of a few queries of one head.
 * Heads are multiplied where they lie in [batch, t, heads, dim]; one tile of scores exists at a time, and keys no query of it may see are left out.
 */
import { type AttentionDims, type DeviceBuffer, invariant } from "@peftjs/core"
import type { Gemm, Matrix } from "./gemm.ts"
import { softmaxRow } from "./softmax.ts"

/** Queries per tile: small, so that little of the causal triangle's empty half is computed. */
const tileRows = 64

export interface Tile {
  readonly batch: number
  /** First query and number of queries. */
  readonly row: number
  readonly rows: number
  /** Keys first…first+width-1 are seen by some query of the tile. */
  readonly first: number
  readonly width: number
  /** [rows, width]; 0 where a key is hidden, and whole rows of 0 for queries that see no key. */
  readonly probabilities: Float32Array
  /** Queries of the tile that see no key. */
  readonly blind: readonly number[]
  /** The tile's queries as an operand, from an array laid out as q; its keys, from one laid out as k or v. */
  query(data: Float32Array): Matrix
  keys(data: Float32Array): Matrix
  /** Positions of the first query's and the first key's row, and the distances to the next ones. */
  readonly at: { readonly query: number; readonly key: number; readonly queryStep: number; readonly keyStep: number }
}

/** Visits every tile: all tiles of a head before the next head, all heads of a sequence before the next sequence. */
export function forEachTile(
  gemm: Gemm,
  q: Float32Array,
  k: Float32Array,
  valid: Int32Array | undefined,
  dims: AttentionDims,
  visit: (tile: Tile) => void,
): void {
  const { batch, queries, keys, heads, kvHeads, dim, scale, offset } = dims
  const window = dims.window ?? Number.POSITIVE_INFINITY
  const queryStep = heads * dim
  const keyStep = kvHeads * dim
  const scores = new Float32Array(Math.min(tileRows, queries) * keys)
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const kvHead = Math.floor(h / (heads / kvHeads))
      for (let row = 0; row < queries; row += tileRows) {
        const rows = Math.min(tileRows, queries - row)
        const first = clamp(row + offset - window + 1, keys)
        const width = Math.max(0, clamp(row + rows + offset, keys) - first)
        const at = {
          query: (b * queries + row) * queryStep + h * dim,
          key: (b * keys + first) * keyStep + kvHead * dim,
          queryStep,
          keyStep,
        }
        const query = (data: Float32Array): Matrix => matrix(data, at.query, queryStep)
        const key = (data: Float32Array): Matrix => matrix(data, at.key, keyStep)
        const probabilities = scores.subarray(0, rows * width)
        gemm.run(rows, width, dim, scale, query(q), { ...key(k), trans: true }, 0, probabilities, 0, width)
        const blind: number[] = []
        for (let r = 0; r < rows; r++) {
          const from = clamp(row + r + offset - window + 1, keys) - first
          const to = clamp(row + r + offset + 1, keys) - first
          const mask = valid?.subarray(b * keys + first, b * keys + first + width)
          if (!normalise(probabilities, r * width, width, from, to, mask)) blind.push(r)
        }
        visit({ batch: b, row, rows, first, width, probabilities, blind, query, keys: key, at })
      }
    }
  }
}

/** Softmax over the visible part of a row, 0 elsewhere. False if nothing is visible. */
function normalise(
  x: Float32Array,
  start: number,
  width: number,
  from: number,
  to: number,
  mask: Int32Array | undefined,
): boolean {
  const end = Math.max(from, to)
  x.fill(0, start, start + from)
  x.fill(0, start + end, start + width)
  let seen = end - from
  if (mask !== undefined) {
    for (let j = from; j < end; j++) {
      if (mask[j] !== 0) continue
      x[start + j] = Number.NEGATIVE_INFINITY
      seen--
    }
  }
  if (seen > 0) softmaxRow(x, start + from, start + end)
  else x.fill(0, start, start + width)
  return seen > 0
}

/** Throws E_INTERNAL if operands and dims do not agree. */
export function checkAttention(
  q: DeviceBuffer,
  k: DeviceBuffer,
  v: DeviceBuffer,
  valid: DeviceBuffer | undefined,
  dims: AttentionDims,
): void {
  const { batch, queries, keys, heads, kvHeads, dim } = dims
  const kv = batch * keys * kvHeads * dim
  invariant(heads % kvHeads === 0, `backend-cpu: attention with ${heads} heads over ${kvHeads} key heads`)
  invariant(
    q.length === batch * queries * heads * dim && k.length === kv && v.length === kv,
    `backend-cpu: attention operands of ${q.length}, ${k.length} and ${v.length} elements for ${JSON.stringify(dims)}`,
  )
  invariant(
    valid === undefined || (valid.dtype === "i32" && valid.length === batch * keys),
    `backend-cpu: attention's valid must be i32 [${batch}, ${keys}]`,
  )
}

export function matrix(data: Float32Array, offset: number, ld: number): Matrix {
  return { data, dtype: "f32", offset, ld, trans: false }
}

function clamp(position: number, keys: number): number {
  return Math.max(0, Math.min(keys, position))
}
