/**
 * The part of attention that forward and backward share: the probabilities of a few queries of one head.
 * Heads are multiplied where they lie in [batch, t, heads, dim]; one tile of scores exists at a time, and keys no query of it may see are left out.
 */
import { type AttentionDims, type DeviceBuffer, invariant } from "@peftjs/core"
import { addressOf, dataOf } from "./buffers.ts"
import type { Gemm, Matrix } from "./gemm.ts"
import { type Heap, placeOf } from "./heap.ts"
import { softmaxKernels } from "./softmax.ts"
import { heapView } from "./staging.ts"
import { transpose } from "./transpose.ts"

/** Most queries per tile: few, so that little of the causal triangle's empty half is computed. */
const mostRows = 64

/**
 * From so many queries on, the keys of a head are turned round first: a BLAS multiplies by a matrix as it lies half as fast again as by its
 * transpose where the inner dimension is a head's. Fewer queries are done before the keys are turned; so are more bytes of keys than this.
 */
const turnedFrom = 16
const turnedBytes = 2 ** 23

/** Most scores of a tile, unless a row has more. */
const mostScores = 2 ** 21

/** A window that hides nothing, and sums with it that fit an i32. */
const unlimited = 2 ** 30

export interface Tile {
  readonly batch: number
  /** First query and number of queries. */
  readonly row: number
  readonly rows: number
  /** Keys first…first+width-1 are seen by some query of the tile. */
  readonly first: number
  readonly width: number
  /** [rows, width] at an address of the heap; 0 where a key is hidden, and whole rows of 0 for queries that see no key. */
  readonly probabilities: number
  /** Queries of the tile that see no key. */
  readonly blind: readonly number[]
  /** The tile's queries as an operand, from an array laid out as q; its keys, from one laid out as k or v. */
  query(data: Float32Array): Matrix
  keys(data: Float32Array): Matrix
  /** The transpose of its keys, from the index-th of the `turned` arrays. */
  keysT(index: number): Matrix
  /** Positions of the first query's and the first key's row, and the distances to the next ones. */
  readonly at: { readonly query: number; readonly key: number; readonly queryStep: number; readonly keyStep: number }
}

/** Rows of a tile, and bytes of scratch that its scores take. */
export function tileSize({ queries, keys }: AttentionDims): { readonly rows: number; readonly bytes: number } {
  const rows = Math.max(1, Math.min(mostRows, queries, Math.floor(mostScores / Math.max(1, keys))))
  return { rows, bytes: 4 * rows * keys }
}

/**
 * Visits every tile: all tiles of a head before the next head, all heads of a sequence before the next sequence. `turned`: k, and whatever
 * else is laid out like it and asked for as `keysT`.
 */
export function forEachTile(
  heap: Heap,
  gemm: Gemm,
  q: Float32Array,
  turned: readonly Float32Array[],
  valid: DeviceBuffer | undefined,
  dims: AttentionDims,
  visit: (tile: Tile) => void,
): void {
  const { batch, queries, keys, heads, kvHeads, dim, scale, offset } = dims
  const window = Math.min(dims.window ?? unlimited, unlimited)
  const [queryStep, keyStep] = [heads * dim, kvHeads * dim]
  const { rows: tileRows, bytes } = tileSize(dims)
  const { visibleSoftmax } = softmaxKernels(heap)
  const seen = valid && counts(valid, batch, keys)
  /** Whether there may be queries that see no key: without a mask or a window each sees the first one, unless that comes after it. */
  const some = seen !== undefined || dims.window !== undefined || offset < 0 || keys === 0
  const headBytes = 4 * keys * dim
  const turns = queries >= turnedFrom && headBytes <= turnedBytes
  const sides = turns ? turned.map((_, i) => bytes + i * headBytes) : []
  const maskStart = bytes + sides.length * headBytes
  heap.scratch(maskStart + (valid ? 4 * valid.length : 0), (probabilities) => {
    const mask = valid && maskAt(heap, valid, probabilities + maskStart)
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < heads; h++) {
        const kvHead = Math.floor(h / (heads / kvHeads))
        if (h % (heads / kvHeads) === 0) {
          const start = b * keys * keyStep + kvHead * dim
          sides.forEach((side, i) => {
            turn(heap, turned[i] as Float32Array, start, keyStep, keys, dim, probabilities + side)
          })
        }
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
          const keysT = (index: number): Matrix => {
            if (!turns) return { ...key(turned[index] as Float32Array), trans: true }
            const side = probabilities + (sides[index] as number)
            return matrix(heapView(heap, "f32", side, keys * dim) as Float32Array, first, keys)
          }
          const scores = heapView(heap, "f32", probabilities, rows * width) as Float32Array
          gemm.run(rows, width, dim, scale, query(q), keysT(0), 0, scores, 0, width)
          const last = row + offset - first
          visibleSoftmax(probabilities, rows, width, last - window, last, mask ? mask + 4 * (b * keys + first) : 0)
          const blind: number[] = []
          for (let r = 0; r < rows && some; r++) {
            const from = clamp(row + r + offset - window + 1, keys)
            const to = Math.max(from, clamp(row + r + offset + 1, keys))
            const place = b * (keys + 1)
            const visible = seen ? (seen[place + to] as number) - (seen[place + from] as number) : to - from
            if (visible === 0) blind.push(r)
          }
          visit({ batch: b, row, rows, first, width, probabilities, blind, query, keys: key, keysT, at })
        }
      }
    }
  })
}

/** One head's [keys, dim] as [dim, keys] at an address. */
function turn(
  heap: Heap,
  data: Float32Array,
  start: number,
  step: number,
  keys: number,
  dim: number,
  to: number,
): void {
  const inside = placeOf(heap, data)
  if (inside !== undefined) {
    transpose(heap)(inside + 4 * start, to, keys, dim, 4 * step, 4 * keys)
    return
  }
  const out = heapView(heap, "f32", to, keys * dim) as Float32Array
  for (let j = 0; j < keys; j++) for (let d = 0; d < dim; d++) out[d * keys + j] = data[start + j * step + d] as number
}

/** How many keys of a sequence are not hidden, before each: [batch, keys + 1]. */
function counts(valid: DeviceBuffer, batch: number, keys: number): Int32Array {
  const data = dataOf(valid)
  const out = new Int32Array(batch * (keys + 1))
  for (let b = 0; b < batch; b++) {
    const to = b * (keys + 1)
    for (let j = 0; j < keys; j++) out[to + j + 1] = (out[to + j] as number) + (data[b * keys + j] === 0 ? 0 : 1)
  }
  return out
}

/** Where the mask is, or has been copied to, in the heap. */
function maskAt(heap: Heap, valid: DeviceBuffer, to: number): number {
  const inside = addressOf(valid)
  if (inside === undefined) heapView(heap, "i32", to, valid.length).set(dataOf(valid))
  return inside ?? to
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
