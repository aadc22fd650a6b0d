/**
 * Causal attention and its gradient. Scores exist one bounded tile at a time, heads are read where they lie, and the gradient computes the
 * probabilities again instead of keeping them.
 */
import type { AttentionDims, DeviceBuffer, FusedKernels } from "@peftjs/core"
import { probabilityGradient, scoresToProbabilities } from "./attention-softmax.ts"
import {
  type AttentionTile,
  attentionTiles,
  keyProduct,
  rowProduct,
  scoreProduct,
  scoreRows,
} from "./attention-tile.ts"
import type { Gpu, GpuBuffer } from "./gpu.ts"
import { multiply } from "./matmul.ts"

export interface AttentionOptions {
  /** Bytes of scores in memory at a time; 32 MiB unless told otherwise. */
  readonly scratchBytes?: number
  /** Invocations that share a row of scores. */
  readonly lanes?: number
}

const scratch = 32 * 2 ** 20

/** Calls `visit` with every tile and with `copies` buffers for its scores. */
function forEachTile(
  gpu: Gpu,
  dims: AttentionDims,
  { scratchBytes = scratch }: AttentionOptions,
  copies: number,
  visit: (tile: AttentionTile, scores: readonly GpuBuffer[]) => void,
): void {
  const room = Math.floor(Math.min(scratchBytes / copies, gpu.maxBufferBytes) / 4)
  for (const tile of attentionTiles(dims, room)) {
    const length = scoreRows(tile) * dims.keys
    const scores = Array.from({ length: copies }, () => gpu.alloc("f32", length))
    visit(tile, scores)
    for (const buffer of scores) gpu.free(buffer)
  }
}

/** Throws before there is a result that an error would leave behind. */
function own(gpu: Gpu, operands: readonly (DeviceBuffer | undefined)[]): void {
  for (const x of operands) if (x) gpu.own(x)
}

const lanesOf = (gpu: Gpu, options: AttentionOptions): number => options.lanes ?? (gpu.features.software ? 1 : 64)

export function createAttention(gpu: Gpu, options: AttentionOptions = {}): FusedKernels["attention"] {
  const lanes = lanesOf(gpu, options)
  return (q, k, v, valid, dims) => {
    own(gpu, [q, k, v, valid])
    const out = gpu.alloc("f32", q.length)
    forEachTile(gpu, dims, options, 1, (tile, [scores]) => {
      const p = scores as GpuBuffer
      multiply(gpu, scoreProduct(dims, tile, q, k, p))
      scoresToProbabilities(gpu, p, { dims, tile, valid, lanes })
      multiply(gpu, rowProduct(dims, tile, p, v, out))
    })
    return out
  }
}

/** With P the probabilities: dV = Pᵀ·dY, dP = dY·Vᵀ, dS = scale · P ∘ (dP - rowsum(P ∘ dP)), dQ = dS·K, dK = dSᵀ·Q. */
export function createAttentionBackward(gpu: Gpu, options: AttentionOptions = {}): FusedKernels["attentionBackward"] {
  const lanes = lanesOf(gpu, options)
  return (q, k, v, valid, dy, dims) => {
    own(gpu, [q, k, v, valid, dy])
    const [dq, dk, dv] = [q, k, v].map((x) => gpu.alloc("f32", x.length)) as [GpuBuffer, GpuBuffer, GpuBuffer]
    forEachTile(gpu, dims, options, 2, (tile, [first, second]) => {
      const [p, ds] = [first as GpuBuffer, second as GpuBuffer]
      const masked = { dims, tile, valid, lanes }
      multiply(gpu, scoreProduct(dims, tile, q, k, p))
      scoresToProbabilities(gpu, p, masked)
      multiply(gpu, keyProduct(dims, tile, p, dy, dv))
      multiply(gpu, scoreProduct(dims, tile, dy, v, ds))
      probabilityGradient(gpu, p, ds, masked)
      multiply(gpu, rowProduct(dims, tile, ds, k, dq))
      multiply(gpu, keyProduct(dims, tile, ds, q, dk))
    })
    return [dq, dk, dv]
  }
}
