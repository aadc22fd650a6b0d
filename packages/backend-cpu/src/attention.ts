/** Causal attention and its gradient, tile by tile; the backward pass computes the probabilities again instead of keeping them. */
import type { AttentionDims, FusedKernels } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import { checkAttention, forEachTile, matrix, tileSize } from "./attention-tile.ts"
import { addressOf, type CpuBuffer, dataOf, type Memory } from "./buffers.ts"
import type { Gemm, Matrix } from "./gemm.ts"
import type { Heap } from "./heap.ts"
import { heapCopies } from "./heap-copy.ts"
import { softmaxKernels } from "./softmax.ts"
import { heapView } from "./staging.ts"

export function createAttention(memory: Memory, heap: Heap, gemm: Gemm): FusedKernels["attention"] {
  return (q, k, v, valid, dims) => {
    checkAttention(q, k, v, valid, dims)
    const values = asF32(v)
    const out = memory.alloc("f32", q.length)
    const y = out.data
    const { keys, dim } = dims
    forEachTile(heap, gemm, asF32(q), [asF32(k)], valid, dims, (tile) => {
      const { rows, width, first, at } = tile
      const p = scratchMatrix(heap, tile.probabilities, rows, width)
      gemm.run(rows, dim, width, 1, p, tile.keys(values), 0, y, at.query, at.queryStep)
      for (const r of tile.blind) {
        const to = at.query + r * at.queryStep
        const from = at.key - first * at.keyStep
        for (let d = 0; d < dim; d++) {
          let sum = 0
          for (let j = 0; j < keys; j++) sum += values[from + j * at.keyStep + d] as number
          y[to + d] = keys === 0 ? 0 : sum / keys
        }
      }
    })
    return out
  }
}

/** With P the probabilities: dV = Pᵀ·dY, dP = dY·Vᵀ, dS = scale · P ∘ (dP - rowsum(P ∘ dP)), dQ = dS·K, dK = dSᵀ·Q. */
export function createAttentionBackward(memory: Memory, heap: Heap, gemm: Gemm): FusedKernels["attentionBackward"] {
  return (q, k, v, valid, dy, dims) => {
    checkAttention(q, k, v, valid, dims)
    const [queries, keys, values, gradient] = [asF32(q), asF32(k), asF32(v), asF32(dy)]
    const dq = memory.alloc("f32", q.length)
    const dk = memory.alloc("f32", k.length)
    const dv = memory.alloc("f32", v.length)
    for (const sum of [dk, dv]) clear(heap, sum)
    const { dim, scale } = dims
    const { softmaxBackward } = softmaxKernels(heap)
    heap.scratch(tileSize(dims).bytes, (ds) => {
      forEachTile(heap, gemm, queries, [keys, values], valid, dims, (tile) => {
        const { rows, width, at } = tile
        const s = scratchMatrix(heap, ds, rows, width)
        const p = scratchMatrix(heap, tile.probabilities, rows, width)
        const transposed = { trans: true } as const
        const dyTile = tile.query(gradient)
        gemm.run(rows, width, dim, 1, dyTile, tile.keysT(1), 0, s.data, 0, width)
        softmaxBackward(tile.probabilities, ds, rows, width, scale)
        gemm.run(rows, dim, width, 1, s, tile.keys(keys), 0, dq.data, at.query, at.queryStep)
        gemm.run(width, dim, rows, 1, { ...s, ...transposed }, tile.query(queries), 1, dk.data, at.key, at.keyStep)
        gemm.run(width, dim, rows, 1, { ...p, ...transposed }, dyTile, 1, dv.data, at.key, at.keyStep)
        blindGradient(tile.blind, gradient, dv.data, dims, at, tile.first)
      })
    })
    return [dq, dk, dv]
  }
}

/** A query that sees no key is the mean of all values: each gets an equal share of its gradient. */
function blindGradient(
  blind: readonly number[],
  dy: Float32Array,
  dv: Float32Array,
  { keys, dim }: AttentionDims,
  at: { query: number; key: number; queryStep: number; keyStep: number },
  first: number,
): void {
  const to = at.key - first * at.keyStep
  for (const r of blind) {
    const from = at.query + r * at.queryStep
    for (let j = 0; j < keys; j++) {
      for (let d = 0; d < dim; d++) (dv[to + j * at.keyStep + d] as number) += (dy[from + d] as number) / keys
    }
  }
}

/** [rows, width] at an address of the heap. */
function scratchMatrix(heap: Heap, address: number, rows: number, width: number): Matrix & { data: Float32Array } {
  const data = heapView(heap, "f32", address, rows * width) as Float32Array
  return { ...matrix(data, 0, width), data }
}

function clear(heap: Heap, buffer: CpuBuffer): void {
  const at = addressOf(buffer)
  if (at === undefined) dataOf(buffer).fill(0)
  else heapCopies(heap).zero(at, 4 * buffer.length)
}
