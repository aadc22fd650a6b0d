/** Sums and maxima along an axis. */
import type { RequiredKernels } from "@peftjs/core"
import { cast, reduced } from "./arithmetic.ts"
import type { Device } from "./device.ts"

export function createReduce(device: Device): RequiredKernels["reduce"] {
  return (op, x, { outer, n, inner }) =>
    device.produce(
      () => `${op} of ${x.dtype} [${outer}, ${n}, ${inner}]`,
      "f32",
      outer * inner,
      (ops) => {
        const name = op === "sum" ? "Sum" : "Max"
        if (outer === 1 && inner === 1) {
          const all = cast(ops, ops.any(x), "f32")
          const axes = all.shape.map((_, axis) => axis)
          return reduced(ops, name, all, axes, false)
        }
        // Rows where the axis is the last, columns where it is the first: shapes that the array mostly has already.
        const [shape, axis] = inner === 1 ? [[outer, n], 1] : outer === 1 ? [[n, inner], 0] : [[outer, n, inner], 1]
        return reduced(ops, name, cast(ops, ops.of(x, shape as number[]), "f32"), [axis as number], false)
      },
    )
}
