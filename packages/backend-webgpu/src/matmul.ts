/** Products of matrices: the kernel of the contract, and the one over matrices in place that attention is made of. */
import type { RequiredKernels } from "@peftjs/core"
import type { Gpu } from "./gpu.ts"
import { choose, type MatmulVariant } from "./matmul-choose.ts"
import { denseProduct, type Product } from "./matmul-product.ts"
import { registerMatmul } from "./matmul-register.ts"
import { splitMatmul } from "./matmul-split.ts"
import { tiledMatmul } from "./matmul-tiled.ts"
import { vectorMatmul } from "./matmul-vector.ts"

export interface MatmulOptions {
  /** Used wherever it can be, instead of the best; for tests and benchmarks. */
  readonly variant?: MatmulVariant
}

export function createMatmul(gpu: Gpu, options: MatmulOptions = {}): RequiredKernels["matmul"] {
  return (a, b, dims) => {
    // Before there is a result that an error would leave behind.
    for (const x of [a, b]) gpu.own(x)
    const out = gpu.alloc("f32", dims.batch * dims.m * dims.n)
    multiply(gpu, denseProduct(a, b, out, dims), options)
    return out
  }
}

/** Enqueues a product. */
export function multiply(gpu: Gpu, product: Product, options: MatmulOptions = {}): void {
  if (product.outer * product.inner * product.m * product.n === 0) return
  const choice = choose(gpu, product, options.variant)
  if (choice.variant === "tiled") tiledMatmul(gpu, product)
  else if (choice.variant === "vector") vectorMatmul(gpu, product)
  else if (choice.variant === "split") splitMatmul(gpu, product, choice)
  else registerMatmul(gpu, product, { ...choice, partStride: 0 })
}
