/**
 * Attention cut into tiles of scores that fit a bounded piece of memory, and where each tile's rows lie in q, k, v and the gradients.
 * A tile is whole batches, else whole key-value heads, else some heads that share one, else some queries of one head.
 */
import type { AttentionDims, DeviceBuffer } from "@peftjs/core"
import type { GpuBuffer } from "./gpu.ts"
import type { Operand, Product } from "./matmul-product.ts"

export interface AttentionTile {
  readonly batch: number
  readonly batches: number
  readonly kvHead: number
  readonly kvHeads: number
  /** The first head, among those that share a key-value head, and how many of them. */
  readonly member: number
  readonly members: number
  readonly query: number
  readonly queries: number
}

/**
 * Tiles of at most `room` scores, one score row at least, in the order in which gradients of k and v are added up. Without queries each
 * head has one tile of none, which makes its gradients 0.
 */
export function* attentionTiles(d: AttentionDims, room: number): Generator<AttentionTile> {
  const group = d.heads / d.kvHeads
  const head = d.queries * d.keys
  const fit = (size: number, most: number): number => Math.max(1, Math.min(most, Math.floor(room / Math.max(size, 1))))
  const batches = fit(head * d.heads, d.batch)
  const kvHeads = head * d.heads <= room ? d.kvHeads : fit(head * group, d.kvHeads)
  const members = head * group <= room ? group : fit(head, group)
  const queries = head <= room ? d.queries : fit(d.keys, d.queries)
  for (let batch = 0; batch < d.batch; batch += batches)
    for (let kvHead = 0; kvHead < d.kvHeads; kvHead += kvHeads)
      for (let member = 0; member < group; member += members)
        for (let query = 0; query === 0 || query < d.queries; query += Math.max(queries, 1))
          yield {
            batch,
            batches: Math.min(batches, d.batch - batch),
            kvHead,
            kvHeads: Math.min(kvHeads, d.kvHeads - kvHead),
            member,
            members: Math.min(members, group - member),
            query,
            queries: Math.min(queries, d.queries - query),
          }
}

/** Score rows of a tile, each as long as there are keys. */
export function scoreRows(t: AttentionTile): number {
  return t.batches * t.kvHeads * t.members * t.queries
}

type Place = Omit<Operand, "buffer" | "transposed">

/** Where a tile's matrices lie: one per head, or one per key-value head with `again` leading to the next head that shares it. */
function places(d: AttentionDims, t: AttentionTile): { query: Place; key: Place; score: Place } {
  const head = (t.kvHead * d.heads) / d.kvHeads + t.member
  const rows = t.queries * d.keys
  const one = { group: 1, again: 0 }
  return {
    query: {
      ...one,
      at: ((t.batch * d.queries + t.query) * d.heads + head) * d.dim,
      stride: d.heads * d.dim,
      outer: d.queries * d.heads * d.dim,
      inner: d.dim,
    },
    key: {
      ...one,
      at: (t.batch * d.keys * d.kvHeads + t.kvHead) * d.dim,
      stride: d.kvHeads * d.dim,
      outer: d.keys * d.kvHeads * d.dim,
      inner: d.dim,
    },
    score: { ...one, at: 0, stride: d.keys, outer: t.kvHeads * t.members * rows, inner: rows },
  }
}

/** scores = rows of q · keysᵀ, head by head. */
export function scoreProduct(
  d: AttentionDims,
  t: AttentionTile,
  rows: DeviceBuffer,
  keys: DeviceBuffer,
  scores: GpuBuffer,
): Product {
  const { query, key, score } = places(d, t)
  return {
    ...{ outer: t.batches, inner: t.kvHeads * t.members, m: t.queries, n: d.keys, k: d.dim, repeat: 1 },
    a: { ...query, buffer: rows, transposed: false },
    b: { ...key, group: t.members, buffer: keys, transposed: true },
    c: { ...score, buffer: scores },
    accumulate: false,
  }
}

/** rows = scores · keys, head by head. */
export function rowProduct(
  d: AttentionDims,
  t: AttentionTile,
  scores: GpuBuffer,
  keys: DeviceBuffer,
  rows: GpuBuffer,
): Product {
  const { query, key, score } = places(d, t)
  return {
    ...{ outer: t.batches, inner: t.kvHeads * t.members, m: t.queries, n: d.dim, k: d.keys, repeat: 1 },
    a: { ...score, buffer: scores, transposed: false },
    b: { ...key, group: t.members, buffer: keys, transposed: false },
    c: { ...query, buffer: rows },
    accumulate: false,
  }
}

/** keys = Σ scoresᵀ · rows over the heads that share a key-value head; added to what earlier tiles of that head left. */
export function keyProduct(
  d: AttentionDims,
  t: AttentionTile,
  scores: GpuBuffer,
  rows: DeviceBuffer,
  keys: GpuBuffer,
): Product {
  const { query, key, score } = places(d, t)
  const shared = (x: Place): Place => ({ ...x, inner: t.members * x.inner, again: x.inner })
  return {
    ...{ outer: t.batches, inner: t.kvHeads, m: d.keys, n: d.dim, k: t.queries, repeat: t.members },
    a: { ...shared(score), buffer: scores, transposed: true },
    b: { ...shared(query), buffer: rows, transposed: false },
    c: { ...key, buffer: keys },
    accumulate: t.member > 0 || t.query > 0,
  }
}
