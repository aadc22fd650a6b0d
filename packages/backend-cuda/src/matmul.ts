/**
 * Products of matrices in f32. TensorFlow multiplies two matrices of one type only and rounds 16-bit products to 16 bits, on the GPU as well;
 * operands of 16 bits are therefore widened first, large ones a block of rows at a time.
 */
import type { DeviceBuffer, RequiredKernels } from "@peftjs/core"
import { cast, product, sliced } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import type { Ops } from "./ops.ts"
import { productByRows } from "./product-by-rows.ts"

/** Elements that are widened at a time: 256 MiB of f32. */
const wideElements = 2 ** 26

export function createMatmul(device: Device, limit: number = wideElements): RequiredKernels["matmul"] {
  return (a, b, dims) => {
    const { batch, m, n, k, transA, transB } = dims
    const what = (): string =>
      `matmul of ${a.dtype} [${batch}, ${m}, ${k}]${transA ? "ᵀ" : ""} with ${b.dtype} [${batch}, ${k}, ${n}]${transB ? "ᵀ" : ""}`
    return device.produce(what, "f32", batch * m * n, (ops) => {
      const pair = batch === 1 ? [] : [batch]
      const left = (): ReturnType<typeof wide> => wide(ops, a, [...pair, ...(transA ? [k, m] : [m, k])])
      if (batch === 1 && !transA && b.dtype !== "f32" && b.length > limit) {
        const [rows, columns] = transB ? [n, k] : [k, n]
        const stored = ops.of(b, [rows, columns])
        return productByRows(
          ops,
          left(),
          { rows, columns, transpose: !transB, step: Math.max(1, Math.floor(limit / columns)) },
          (start, count) => cast(ops, sliced(ops, stored, 0, start, count), "f32"),
        )
      }
      return product(ops, left(), wide(ops, b, [...pair, ...(transB ? [n, k] : [k, n])]), transA, transB)
    })
  }
}

const wide = (ops: Ops, x: DeviceBuffer, shape: readonly number[]): ReturnType<typeof cast> =>
  cast(ops, ops.of(x, shape), "f32")
