/**
 * Matmul for small outputs with a long k, such as LoRA's x·Aᵀ: parts of k are multiplied side by side, then added in order, so that the
 * result is the same at every run.
 */
import type { Gpu } from "./gpu.ts"
import type { Product } from "./matmul-product.ts"
import { registerMatmul } from "./matmul-register.ts"

export interface SplitTile {
  readonly rows: number
  readonly columns: number
  readonly parts: number
}

/** C must be dense, and is overwritten. */
export function splitMatmul(gpu: Gpu, product: Product, tile: SplitTile): void {
  const { outer, m, n, c } = product
  const partStride = outer * m * n
  const partial = gpu.alloc("f32", tile.parts * partStride)
  registerMatmul(gpu, { ...product, c: { ...c, buffer: partial } }, { ...tile, partStride })
  const program = gpu.program("matmul sum of parts", () => ({
    inputs: [{ name: "x", type: "f32" }],
    outputs: [{ name: "y", type: "f32" }],
    params: [
      { name: "n", type: "u32" },
      { name: "parts", type: "u32" },
    ],
    workgroupSize: [64],
    body: `
if (index >= p.n) { return; }
var sum = 0.0;
for (var part = 0u; part < p.parts; part++) { sum += x[part * p.n + index]; }
y[index] = sum;`,
  }))
  const groups = Math.ceil(partStride / 64)
  gpu.run(program, { inputs: [partial], outputs: [c.buffer], params: [partStride, tile.parts], groups })
  gpu.free(partial)
}
