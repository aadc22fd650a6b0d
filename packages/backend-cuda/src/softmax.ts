/** Softmax of rows, and the logarithm of their sums of exponentials, relative to each row's largest element. */
import type { FusedKernels } from "@peftjs/core"
import { add, binary, cast, constantOf, reduced, sub, unary } from "./arithmetic.ts"
import type { Device } from "./device.ts"

export function createSoftmax(device: Device): FusedKernels["softmax"] {
  return (x, rows, n) =>
    device.produce(
      () => `softmax of [${rows}, ${n}]`,
      "f32",
      rows * n,
      (ops) => unary(ops, "Softmax", cast(ops, ops.of(x, [rows, n]), "f32")),
    )
}

export function createLogSumExp(device: Device): FusedKernels["logSumExp"] {
  return (x, rows, n) =>
    device.produce(
      () => `logSumExp of [${rows}, ${n}]`,
      "f32",
      rows,
      (ops) => {
        const values = cast(ops, ops.of(x, [rows, n]), "f32")
        // Finite, so that a row of nothing else than -Infinity subtracts to that.
        const top = binary(ops, "Maximum", reduced(ops, "Max", values, [1], true), constantOf(ops, -3.4e38))
        const difference = sub(ops, values, top)
        const powers = unary(ops, "Exp", difference)
        ops.drop(difference)
        return add(ops, unary(ops, "Log", reduced(ops, "Sum", powers, [1], true)), top)
      },
    )
}
