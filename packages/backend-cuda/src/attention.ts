/** Causal attention and its gradient, tile by tile; the backward pass computes the probabilities again instead of keeping them. */
import type { AttentionDims, FusedKernels } from "@peftjs/core"
import { add, constantOf, joined, mul, product, reduced, reshape, sub } from "./arithmetic.ts"
import {
  byKey,
  byQuery,
  checkAttention,
  fromKeys,
  fromQueries,
  keysOf,
  masksOf,
  queriesOf,
  type Tile,
  tilesOf,
} from "./attention-tiles.ts"
import type { Device } from "./device.ts"
import type { Ops } from "./ops.ts"
import type { TfTensor } from "./tf-runtime.ts"

/** Scores that exist at a time: 128 MiB of f32. */
const tileScores = 2 ** 25

export function createAttention(device: Device, limit: number = tileScores): FusedKernels["attention"] {
  return (q, k, v, valid, dims) => {
    checkAttention(q, k, v, dims)
    return device.produce(described("attention", dims), "f32", q.length, (ops) => {
      const asked = mul(ops, byQuery(ops, q, dims), constantOf(ops, dims.scale))
      const [keys, values] = [byKey(ops, k, dims), byKey(ops, v, dims)]
      const masks = masksOf(ops, valid, dims)
      const outputs = createRows(ops, dims)
      for (const tile of tilesOf(dims, limit)) {
        const [y] = ops.within(() => {
          const p = masks.probabilities(tile, queriesOf(ops, asked, tile), keysOf(ops, keys, tile))
          return [product(ops, p, keysOf(ops, values, tile))] as const
        })
        outputs.push(tile, y)
      }
      return fromQueries(ops, outputs.joined(), dims)
    })
  }
}

/** With P the probabilities: dV = Pᵀ·dY, dP = dY·Vᵀ, dS = P ∘ (dP - rowsum(P ∘ dP)), dQ = scale · dS·K, dK = dSᵀ·(scale · Q). */
export function createAttentionBackward(device: Device, limit: number = tileScores): FusedKernels["attentionBackward"] {
  return (q, k, v, valid, dy, dims) => {
    checkAttention(q, k, v, dims)
    const outputs = [q, k, v].map(({ length }) => ({ dtype: "f32" as const, length }))
    const made = device.produceAll(described("attentionBackward", dims), outputs, (ops) => {
      const asked = mul(ops, byQuery(ops, q, dims), constantOf(ops, dims.scale))
      const [gradients, keys, values] = [byQuery(ops, dy, dims), byKey(ops, k, dims), byKey(ops, v, dims)]
      const masks = masksOf(ops, valid, dims)
      const [dq, dk, dv] = [createRows(ops, dims), createSums(ops), createSums(ops)]
      for (const tile of tilesOf(dims, limit)) {
        const [some, ofKeys, ofValues] = ops.within(() => {
          const [x, key] = [queriesOf(ops, asked, tile), keysOf(ops, keys, tile)]
          const own = queriesOf(ops, gradients, tile)
          const p = masks.probabilities(tile, x, key)
          const ds = scoreGradient(ops, p, product(ops, own, keysOf(ops, values, tile), false, true))
          const shown = masks.shown(tile, ds)
          return [product(ops, shown, key), product(ops, shown, x, true), product(ops, p, own, true)] as const
        })
        dq.push(tile, some)
        dk.push(tile, ofKeys)
        dv.push(tile, ofValues)
      }
      const scaled = mul(ops, dq.joined(), constantOf(ops, dims.scale))
      return [fromQueries(ops, scaled, dims), fromKeys(ops, dk.joined(), dims), fromKeys(ops, dv.joined(), dims)]
    })
    return made as unknown as ReturnType<FusedKernels["attentionBackward"]>
  }
}

const described =
  (kernel: string, { batch, queries, keys, heads, kvHeads, dim }: AttentionDims) =>
  (): string =>
    `${kernel} of [${batch}, ${queries}, ${heads}, ${dim}] and [${batch}, ${keys}, ${kvHeads}, ${dim}]`

/** P ∘ (dP - rowsum(P ∘ dP)). */
function scoreGradient(ops: Ops, p: TfTensor, dp: TfTensor): TfTensor {
  const products = mul(ops, p, dp)
  const sums = reduced(ops, "Sum", products, [2], true)
  ops.drop(products)
  const difference = sub(ops, dp, sums)
  ops.drop(dp, sums)
  const result = mul(ops, p, difference)
  ops.drop(difference)
  return result
}

interface Parts {
  push(tile: Tile, part: TfTensor): void
  joined(): TfTensor
}

/** Joins what tiles give for their queries [pairs, group · queries, dim] to [all pairs, group, all queries, dim]. */
function createRows(ops: Ops, { heads, kvHeads }: AttentionDims): Parts {
  const group = heads / kvHeads
  const found: { readonly pair: number; readonly parts: TfTensor[] }[] = []
  return {
    push({ pair, pairs, queries }, part) {
      const dim = part.shape[2] as number
      const shaped = reshape(ops, part, [pairs, group, queries, dim])
      const last = found.at(-1)
      if (last?.pair === pair) last.parts.push(shaped)
      else found.push({ pair, parts: [shaped] })
    },
    joined: () =>
      joined(
        ops,
        found.map(({ parts }) => joined(ops, parts, 2)),
        0,
      ),
  }
}

/** Adds what tiles give for the keys of the same pairs, and joins the pairs. */
function createSums(ops: Ops): Parts {
  const found: { readonly pair: number; sum: TfTensor }[] = []
  return {
    push({ pair }, part) {
      const last = found.at(-1)
      if (last?.pair !== pair) {
        found.push({ pair, sum: part })
        return
      }
      const sum = add(ops, last.sum, part)
      ops.drop(last.sum, part)
      last.sum = sum
    },
    joined: () =>
      joined(
        ops,
        found.map(({ sum }) => sum),
        0,
      ),
  }
}
