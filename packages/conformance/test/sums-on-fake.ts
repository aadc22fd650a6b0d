/** The fake backend with the sum of products, on the host; a packed operand is multiplied by the packed kernel, which has to be there. */
import { type DeviceBuffer, hostArray, type Product } from "@peftjs/core"
import { matmul } from "../src/fake-kernels.ts"
import type { FakeBackend } from "../src/index.ts"

export interface SumMistakes {
  /** What is read in place of the products. */
  readonly read?: (products: readonly Product[]) => readonly Product[]
  /** How often the addend is added; once unless told otherwise. */
  readonly addends?: (products: number) => number
}

export function withSums(sound: FakeBackend, { read = (p) => p, addends = () => 1 }: SumMistakes = {}): FakeBackend {
  const { upload, peek, kernels } = sound
  return {
    ...sound,
    kernels: {
      ...kernels,
      sumOfProducts(products, addend, { m, n }) {
        const sum = hostArray("f32", m * n)
        const add = (x: ArrayLike<number>, factor: number): void => {
          for (let i = 0; i < sum.length; i++) (sum[i] as number) += factor * (x[i] as number)
        }
        if (addend) add(peek(addend), addends(products.length))
        for (const { alpha, a, b, k, transA, transB } of read(products)) {
          if (!("codes" in b)) {
            add(matmul(peek(a), peek(b), { batch: 1, m, n, k, transA, transB }), alpha)
            continue
          }
          const dims = { m, rows: transB ? n : k, columns: transB ? k : n, transpose: !transB }
          const product = kernels.packedMatmul?.(a, b, dims) as DeviceBuffer
          add(peek(product), alpha)
          sound.free(product)
        }
        return upload(sum, "f32")
      },
    },
  }
}
