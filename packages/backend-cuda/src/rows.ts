/** Rows of a table by ids, and rows added into a table by ids. */
import type { RequiredKernels } from "@peftjs/core"
import { cast, rowsOf } from "./arithmetic.ts"
import type { Device } from "./device.ts"

export function createGather(device: Device): RequiredKernels["gather"] {
  return (table, ids, { rows, width, n }) =>
    device.produce(
      () => `gather of ${n} rows of ${table.dtype} [${rows}, ${width}]`,
      "f32",
      n * width,
      (ops) => cast(ops, rowsOf(ops, ops.of(table, [rows, width]), ops.of(ids, [n])), "f32"),
    )
}

/**
 * On the CPU rows with equal ids add up in order. A GPU adds them as they come, unless TF_USE_DETERMINISTIC_SEGMENT_REDUCTIONS was set before
 * TensorFlow was loaded: then it sorts them by id first, and equal calls give equal bits.
 */
export function createScatterAdd(device: Device): RequiredKernels["scatterAdd"] {
  return (x, ids, { rows, width, n }) =>
    device.produce(
      () => `scatterAdd of ${n} rows into [${rows}, ${width}]`,
      "f32",
      rows * width,
      (ops) => {
        const count = ops.constant("i32", [], `${rows}`, () => Int32Array.of(rows))
        const attributes = { T: { type: "f32" }, Tindices: { type: "i32" }, Tnumsegments: { type: "i32" } } as const
        return ops.run(
          "UnsortedSegmentSum",
          attributes,
          cast(ops, ops.of(x, [n, width]), "f32"),
          ops.of(ids, [n]),
          count,
        )
      },
    )
}
