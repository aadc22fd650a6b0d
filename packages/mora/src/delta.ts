/**
 * What MoRA adds to a layer's weight, in closed form on the host: W' = W + delta. Merging does not use it; it is what merging is checked
 * against, and what an adapter is converted from. Knows no tensors.
 */
import { PeftError } from "@peftjs/core"
import { groupings, type MoraType } from "./types.ts"

/** A layer's sizes. */
export type Sizes = { readonly in: number; readonly out: number }

/** Which of K runs over `width` places the place j is in; the first width mod K runs are one longer. */
function runOf(j: number, K: number, width: number): number {
  const [each, longer] = [Math.floor(width / K), width % K]
  const cut = longer * (each + 1)
  return j < cut ? Math.floor(j / (each + 1)) : longer + Math.floor((j - cut) / each)
}

function sideOf(M: Float32Array): number {
  const R = Math.sqrt(M.length)
  if (Number.isInteger(R) && R > 0) return R
  throw new PeftError("E_SHAPE", `[mora] M must be square; ${M.length} values are not`)
}

/**
 * The exact LoRA of every type but rotation (scaling 1: alpha = rank): A [R, in] is M with columns added up, B [out, R] holds one 1 per row.
 * M is [R, R], row-major. Throws E_OPTION for rotation, E_SHAPE.
 */
export function moraFactors(
  type: MoraType,
  { in: width, out }: Sizes,
  M: Float32Array,
): { readonly rank: number; readonly A: Float32Array; readonly B: Float32Array } {
  const R = sideOf(M)
  if (type === "rotation")
    throw new PeftError("E_OPTION", "[mora] rotation is no LoRA of rank R; use loraFactors, which approximates it")
  const { sums, spreads } = groupings[type]
  const padded = sums === "strided" ? Math.ceil(width / R) * R : width
  const A = new Float32Array(R * width)
  for (let j = 0; j < padded; j++) {
    const group = sums === "strided" ? j % R : runOf(j, R, width)
    for (let k = 0; k < R; k++) (A[k * width + (j % width)] as number) += M[k * R + group] as number
  }
  const B = new Float32Array(out * R)
  for (let j = 0; j < out; j++) B[j * R + (spreads === "tile" ? j % R : runOf(j, R, out))] = 1
  return { rank: R, A, B }
}

/** The matrix [out, in] that M [R, R] adds to the weight. Throws E_SHAPE. */
export function moraDelta(type: MoraType, sizes: Sizes, M: Float32Array): Float32Array {
  const { in: width, out } = sizes
  const delta = new Float32Array(out * width)
  const R = sideOf(M)
  if (type === "rotation") {
    const blocks = turnedBlocks(M, R, width)
    for (let row = 0; row < out; row++) {
      const b = Math.floor(row / R) % blocks.length
      const block = blocks[b] as Float64Array
      // The last block goes on with the first features.
      for (let k = 0; k < R; k++)
        (delta[row * width + ((b * R + k) % width)] as number) += block[(row % R) * R + k] as number
    }
    return delta
  }
  const { A, B } = moraFactors(type, sizes, M)
  for (let row = 0; row < out; row++) {
    const k = B.subarray(row * R, (row + 1) * R).indexOf(1)
    delta.set(A.subarray(k * width, (k + 1) * width), row * width)
  }
  return delta
}

/** M times the rotation of each of ⌈width/R⌉ blocks. */
function turnedBlocks(M: Float32Array, R: number, width: number): Float64Array[] {
  const half = R / 2
  return Array.from({ length: Math.ceil(width / R) }, (_, b) =>
    Float64Array.from({ length: R * R }, (_, at) => {
      const [row, k] = [Math.floor(at / R) * R, at % R]
      const angle = b * 10000 ** (-(k % half) / half)
      const other = k < half ? (M[row + k + half] as number) : -(M[row + k - half] as number)
      return (M[row + k] as number) * Math.cos(angle) + other * Math.sin(angle)
    }),
  )
}
