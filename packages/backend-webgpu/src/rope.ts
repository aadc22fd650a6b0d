/** Rotary positions in the half-split layout: an invocation turns one pair, the halves' elements of equal place. */
import { type FusedKernels, invariant } from "@peftjs/core"
import type { Gpu } from "./gpu.ts"
import { groupsFor, produce, threads, u32s } from "./launch.ts"
import { loaders, storageOf } from "./words.ts"

export function createRope(gpu: Gpu): NonNullable<FusedKernels["rope"]> {
  return (x, cos, sin, { outer, rows, tokens, heads, dim }) => {
    const half = dim / 2
    const angles = rows * tokens * half
    invariant(
      x.length === outer * tokens * heads * dim && cos.length === angles && sin.length === angles,
      `backend-webgpu: rope of ${x.length} elements with ${cos.length} angles as [${outer}, ${tokens}, ${heads}, ${dim}]`,
    )
    const operands = [
      { name: "x", dtype: x.dtype },
      { name: "cosines", dtype: cos.dtype },
      { name: "sines", dtype: sin.dtype },
    ]
    const program = gpu.program(`rope ${operands.map((o) => o.dtype)}`, () => ({
      inputs: operands.map(({ name, dtype }) => ({ name, type: storageOf(dtype) })),
      outputs: [{ name: "result", type: "f32" }],
      params: u32s("count", "half", "heads", "period"),
      workgroupSize: [threads],
      helpers: loaders(operands),
      body: `if (index >= p.count) { return; }
let place = index % p.half;
let head = index / p.half;
let angle = head / p.heads % p.period * p.half + place;
let first = head * p.half * 2u + place;
let a = load_x(first);
let b = load_x(first + p.half);
let c = load_cosines(angle);
let s = load_sines(angle);
result[first] = a * c - b * s;
result[first + p.half] = b * c + a * s;`,
    }))
    const count = outer * tokens * heads * half
    const params = [count, half, heads, rows * tokens]
    return produce(gpu, program, { inputs: [x, cos, sin], params, groups: groupsFor(count) }, "f32", x.length)
  }
}
