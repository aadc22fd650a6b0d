/** Rotary positions in the half-split layout. */
import { type FusedKernels, invariant } from "@peftjs/core"
import { add, cast, joined, mul, sub } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import type { TfTensor } from "./tf-runtime.ts"

export function createRope(device: Device): FusedKernels["rope"] {
  return (x, cos, sin, { outer, rows, tokens, heads, dim }) => {
    const half = dim / 2
    const angles = rows * tokens * half
    invariant(
      x.length === outer * tokens * heads * dim && cos.length === angles && sin.length === angles,
      `backend-cuda: rope of ${x.length} elements with ${cos.length} angles as [${outer}, ${tokens}, ${heads}, ${dim}]`,
    )
    const what = (): string => `rope of [${outer}, ${tokens}, ${heads}, ${dim}]`
    return device.produce(what, "f32", x.length, (ops) => {
      const values = cast(ops, ops.of(x, [outer, tokens, heads, dim]), "f32")
      const axis = ops.constant("i32", [], "3", () => Int32Array.of(3))
      const halves = ops.runAll(2, "Split", { T: { type: "f32" }, num_split: { int: 2 } }, axis, values)
      const [first, second] = halves as [TfTensor, TfTensor]
      const [c, s] = [cos, sin].map((angle) => cast(ops, ops.of(angle, [rows, tokens, 1, half]), "f32")) as [
        TfTensor,
        TfTensor,
      ]
      return joined(
        ops,
        [sub(ops, mul(ops, first, c), mul(ops, second, s)), add(ops, mul(ops, second, c), mul(ops, first, s))],
        3,
      )
    })
  }
}
