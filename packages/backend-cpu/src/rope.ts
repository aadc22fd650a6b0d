/** Rotary positions in the half-split layout: one pass, in which every pair is read and written once. */
import { type FusedKernels, invariant } from "@peftjs/core"
import { asF32 } from "./as-f32.ts"
import type { Memory } from "./buffers.ts"

export function createRope(memory: Memory): FusedKernels["rope"] {
  return (x, cosines, sines, { outer, rows, tokens, heads, dim }) => {
    const half = dim / 2
    const angles = rows * tokens * half
    invariant(
      x.length === outer * tokens * heads * dim && cosines.length === angles && sines.length === angles,
      `backend-cpu: rope of ${x.length} elements with ${cosines.length} angles as [${outer}, ${tokens}, ${heads}, ${dim}]`,
    )
    const data = asF32(x)
    const cos = asF32(cosines)
    const sin = asF32(sines)
    const out = memory.alloc("f32", x.length)
    const y = out.data
    let at = 0
    for (let row = 0; row < outer * tokens; row++) {
      const first = (row % (rows * tokens)) * half
      for (let head = 0; head < heads; head++, at += dim) {
        for (let i = 0; i < half; i++) {
          const a = data[at + i] as number
          const b = data[at + half + i] as number
          const c = cos[first + i] as number
          const s = sin[first + i] as number
          y[at + i] = a * c - b * s
          y[at + half + i] = b * c + a * s
        }
      }
    }
    return out
  }
}
