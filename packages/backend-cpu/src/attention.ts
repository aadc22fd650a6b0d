/** Causal attention and its gradient, tile by tile; the backward pass computes the probabilities again instead of keeping them. */
import type { AttentionDims, DeviceBuffer, FusedKernels } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import { checkAttention, forEachTile, matrix } from "./attention-tile.ts"
import { dataOf, type Memory } from "./buffers.ts"
import type { Gemm } from "./gemm.ts"

type Valid = Int32Array | undefined

export function createAttention(memory: Memory, gemm: Gemm): FusedKernels["attention"] {
  return (q, k, v, valid, dims) => {
    checkAttention(q, k, v, valid, dims)
    const values = asF32(v)
    const out = memory.alloc("f32", q.length)
    const y = out.data
    const { keys, dim } = dims
    forEachTile(gemm, asF32(q), asF32(k), mask(valid), dims, (tile) => {
      const { rows, width, first, at } = tile
      const p = matrix(tile.probabilities, 0, width)
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
export function createAttentionBackward(memory: Memory, gemm: Gemm): FusedKernels["attentionBackward"] {
  return (q, k, v, valid, dy, dims) => {
    checkAttention(q, k, v, valid, dims)
    const [queries, keys, values, gradient] = [asF32(q), asF32(k), asF32(v), asF32(dy)]
    const dq = memory.alloc("f32", q.length)
    const dk = memory.alloc("f32", k.length)
    const dv = memory.alloc("f32", v.length)
    dk.data.fill(0)
    dv.data.fill(0)
    let scratch = new Float32Array(0)
    forEachTile(gemm, queries, keys, mask(valid), dims, (tile) => {
      const { rows, width, at } = tile
      const { dim, scale } = dims
      if (scratch.length < rows * width) scratch = new Float32Array(rows * width)
      const ds = scratch.subarray(0, rows * width)
      const transposed = { trans: true } as const
      const dyTile = tile.query(gradient)
      gemm.run(rows, width, dim, 1, dyTile, { ...tile.keys(values), ...transposed }, 0, ds, 0, width)
      for (let r = 0; r < rows; r++) scoreGradient(tile.probabilities, ds, r * width, width, scale)
      const s = matrix(ds, 0, width)
      gemm.run(rows, dim, width, 1, s, tile.keys(keys), 0, dq.data, at.query, at.queryStep)
      gemm.run(width, dim, rows, 1, { ...s, ...transposed }, tile.query(queries), 1, dk.data, at.key, at.keyStep)
      const p = { ...matrix(tile.probabilities, 0, width), ...transposed }
      gemm.run(width, dim, rows, 1, p, dyTile, 1, dv.data, at.key, at.keyStep)
      blindGradient(tile.blind, gradient, dv.data, dims, at, tile.first)
    })
    return [dq, dk, dv]
  }
}

/** ds holds dP and becomes dS. */
function scoreGradient(p: Float32Array, ds: Float32Array, start: number, width: number, scale: number): void {
  const end = start + width
  let dot = 0
  for (let i = start; i < end; i++) dot += (p[i] as number) * (ds[i] as number)
  for (let i = start; i < end; i++) ds[i] = scale * (p[i] as number) * ((ds[i] as number) - dot)
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

function mask(valid: DeviceBuffer | undefined): Valid {
  return valid === undefined ? undefined : (dataOf(valid) as Int32Array)
}
