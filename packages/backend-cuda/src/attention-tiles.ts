/**
 * How attention is cut into pieces, so that the scores of all heads never exist at once: by texts, by heads that share keys, then by queries.
 * Makes the probabilities of a piece. Knows neither what is done with them nor buffers.
 */
import { type AttentionDims, type DeviceBuffer, invariant, type Shape } from "@peftjs/core"
import {
  add,
  binary,
  cast,
  constantOf,
  mul,
  product,
  reshape,
  select,
  sliced,
  transposed,
  unary,
} from "./arithmetic.ts"
import type { Ops } from "./ops.ts"
import type { TfTensor } from "./tf-runtime.ts"

/** Pairs of a text and a key-value head [pair, pair + pairs), and of their queries [query, query + queries). */
export interface Tile {
  readonly pair: number
  readonly pairs: number
  readonly query: number
  readonly queries: number
}

/** Tiles with no more scores than `limit`, or with one query; in the order of pairs, then of queries. */
export function tilesOf({ batch, queries, keys, heads, kvHeads }: AttentionDims, limit: number): Tile[] {
  const ofQuery = Math.max(1, (heads / kvHeads) * keys)
  const fitting = Math.max(1, Math.floor(limit / (ofQuery * queries)))
  // Whole texts, or heads of one text: a mask then is that of one text or of whole ones.
  const pairs = fitting >= kvHeads ? Math.floor(fitting / kvHeads) * kvHeads : fitting
  const step = Math.max(1, Math.min(queries, Math.floor(limit / ofQuery)))
  const tiles: Tile[] = []
  const total = batch * kvHeads
  for (let pair = 0; pair < total; ) {
    const left = pairs >= kvHeads ? total - pair : kvHeads - (pair % kvHeads)
    const count = Math.min(pairs, left)
    // One tile where there are no queries: the gradients of keys are zeros then.
    for (let query = 0; query === 0 || query < queries; query += step)
      tiles.push({ pair, pairs: count, query, queries: Math.min(step, queries - query) })
    pair += count
  }
  return tiles
}

/** [batch, queries, heads, dim] as [pairs, heads that share keys, queries, dim]. */
export function byQuery(ops: Ops, x: DeviceBuffer, { batch, queries, heads, kvHeads, dim }: AttentionDims): TfTensor {
  const group = heads / kvHeads
  const turned = transposed(ops, f32(ops, x, [batch, queries, kvHeads, group, dim]), [0, 2, 3, 1, 4])
  return reshape(ops, turned, [batch * kvHeads, group, queries, dim])
}

/** The way back. */
export function fromQueries(ops: Ops, x: TfTensor, { batch, queries, heads, kvHeads, dim }: AttentionDims): TfTensor {
  const turned = reshape(ops, x, [batch, kvHeads, heads / kvHeads, queries, dim])
  return transposed(ops, turned, [0, 3, 1, 2, 4])
}

/** [batch, keys, kvHeads, dim] as [pairs, keys, dim]. */
export function byKey(ops: Ops, x: DeviceBuffer, { batch, keys, kvHeads, dim }: AttentionDims): TfTensor {
  const turned = transposed(ops, f32(ops, x, [batch, keys, kvHeads, dim]), [0, 2, 1, 3])
  return reshape(ops, turned, [batch * kvHeads, keys, dim])
}

/** The way back. */
export function fromKeys(ops: Ops, x: TfTensor, { batch, keys, kvHeads, dim }: AttentionDims): TfTensor {
  return transposed(ops, reshape(ops, x, [batch, kvHeads, keys, dim]), [0, 2, 1, 3])
}

const f32 = (ops: Ops, x: DeviceBuffer, shape: Shape): TfTensor => cast(ops, ops.of(x, shape), "f32")

/** A tile of what `byQuery` made, queries of all its heads one below the other: [pairs, group · queries, dim]. */
export function queriesOf(ops: Ops, x: TfTensor, { pair, pairs, query, queries }: Tile): TfTensor {
  const [, group, , dim] = x.shape as [number, number, number, number]
  const part = sliced(ops, sliced(ops, x, 0, pair, pairs), 2, query, queries)
  return reshape(ops, part, [pairs, group * queries, dim])
}

/** A tile of what `byKey` made. */
export const keysOf = (ops: Ops, x: TfTensor, { pair, pairs }: Tile): TfTensor => sliced(ops, x, 0, pair, pairs)

/** Finite, so that a query which sees nothing averages all values. */
const hidden = -3.4e38

export interface Masks {
  /** Softmax over the keys of a tile: q [pairs, group · queries, dim] has been multiplied by the scale. */
  probabilities(tile: Tile, q: TfTensor, k: TfTensor): TfTensor
  /** A tile's gradient of the scores without those of hidden keys. */
  shown(tile: Tile, gradient: TfTensor): TfTensor
}

export function masksOf(ops: Ops, valid: DeviceBuffer | undefined, dims: AttentionDims): Masks {
  const { batch, queries, keys, heads, kvHeads, offset, window } = dims
  const group = heads / kvHeads
  const key = `causal mask ${queries} ${keys} ${offset} ${window}`
  // [queries, keys]: 0 where a query sees a key.
  const causal = ops.kept(key, () => causalMask(ops, dims))
  const padding =
    valid &&
    select(
      ops,
      binary(ops, "NotEqual", f32(ops, valid, [batch, 1, 1, keys]), constantOf(ops, 0)),
      constantOf(ops, 0),
      constantOf(ops, hidden),
    )
  /** Scores as [texts, heads, queries, keys], and the mask that broadcasts to them. */
  function byText(tile: Tile, scores: TfTensor): readonly [TfTensor, TfTensor] {
    const texts = Math.max(1, Math.floor(tile.pairs / kvHeads))
    const shape = [texts, (tile.pairs * group) / texts, tile.queries, keys]
    const rows = sliced(ops, causal, 0, tile.query, tile.queries)
    const text = Math.floor(tile.pair / kvHeads)
    const mask = padding ? binary(ops, "Minimum", rows, sliced(ops, padding, 0, text, texts)) : rows
    return [reshape(ops, scores, shape), mask]
  }
  const seesAlways =
    valid === undefined && offset >= 0 && offset + queries <= keys && (window === undefined || window > 0)
  return {
    probabilities(tile, q, k) {
      const products = product(ops, q, k, false, true)
      const { shape } = products
      const [scores, mask] = byText(tile, products)
      const masked = add(ops, scores, mask)
      ops.drop(products, scores)
      const result = unary(ops, "Softmax", masked)
      ops.drop(masked)
      return reshape(ops, result, shape)
    },
    shown(tile, gradient) {
      // Only a query that sees nothing gives hidden keys a weight.
      if (seesAlways) return gradient
      const [shaped, mask] = byText(tile, gradient)
      const shown = cast(ops, binary(ops, "Equal", mask, constantOf(ops, 0)), "f32")
      return reshape(ops, mul(ops, shaped, shown), gradient.shape)
    },
  }
}

function causalMask(ops: Ops, { queries, keys, offset, window }: AttentionDims): TfTensor {
  const counted = (n: number, from: number, shape: Shape): TfTensor =>
    ops.upload(
      "f32",
      shape,
      Float32Array.from({ length: n }, (_, i) => i + from),
    )
  const column = counted(keys, 0, [1, keys])
  const row = counted(queries, offset, [queries, 1])
  const reached = binary(ops, "LessEqual", column, row)
  const seen =
    window === undefined
      ? reached
      : ops.run(
          "LogicalAnd",
          {},
          reached,
          binary(ops, "Greater", column, counted(queries, offset - window, [queries, 1])),
        )
  return select(ops, seen, constantOf(ops, 0), constantOf(ops, hidden))
}

/** Throws E_INTERNAL where buffers do not have the sizes. */
export function checkAttention(q: DeviceBuffer, k: DeviceBuffer, v: DeviceBuffer, d: AttentionDims): void {
  const [asked, held] = [d.batch * d.queries * d.heads * d.dim, d.batch * d.keys * d.kvHeads * d.dim]
  invariant(
    q.length === asked && k.length === held && v.length === held,
    `backend-cuda: attention of ${q.length}, ${k.length} and ${v.length} elements as [${d.batch}, ${d.queries}, ${d.heads}, ${d.dim}] and [${d.batch}, ${d.keys}, ${d.kvHeads}, ${d.dim}]`,
  )
}
