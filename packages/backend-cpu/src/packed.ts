/**
 * Products with packed matrices: panels of rows are unpacked into scratch memory and go to the ordinary product, so that no more than a
 * panel exists as f32. Knows no layouts and no formats.
 */
import { type DeviceBuffer, type FusedKernels, invariant, type PackedOperand } from "@peftjs/core"
import { f32Of, type Memory } from "./buffers.ts"
import type { Gemm } from "./gemm.ts"
import { unpacker } from "./packed-unpack.ts"

/** Elements of a panel, 4 MiB of f32: products with less columns than that are slower, by more than a cache gives back. */
const panelElements = 2 ** 20

export function createUnpack({ alloc, heap }: Memory): FusedKernels["unpack"] {
  return (w, { start, end, columns }) => {
    const unpack = unpacker(heap, w)
    const out = alloc("f32", (end - start) * columns)
    const step = Math.max(1, Math.floor(panelElements / columns))
    for (let row = start; row < end; row += step) {
      unpack(row * columns, Math.min(end, row + step) * columns, (values) =>
        out.data.set(values, (row - start) * columns),
      )
    }
    return out
  }
}

export function createPackedMatmul(memory: Memory, gemm: Gemm): FusedKernels["packedMatmul"] {
  return (x, w, dims) => {
    const { m, rows, columns, transpose } = dims
    const out = memory.alloc("f32", m * (transpose ? columns : rows))
    packedProduct(memory, gemm, x, w, dims, 1, 0, out.data)
    return out
  }
}

/** out = alpha · product + beta · out. */
export function packedProduct(
  { heap }: Memory,
  gemm: Gemm,
  x: DeviceBuffer,
  w: PackedOperand,
  { m, rows, columns, transpose }: Parameters<FusedKernels["packedMatmul"]>[2],
  alpha: number,
  beta: 0 | 1,
  out: Float32Array,
): void {
  const depth = transpose ? rows : columns
  invariant(x.length === m * depth, `backend-cpu: a packed product of ${x.length} elements as [${m}, ${depth}]`)
  const unpack = unpacker(heap, w)
  const left = { data: f32Of(x), dtype: "f32", ld: depth, trans: false } as const
  const step = Math.max(1, Math.min(rows, Math.floor(panelElements / columns)))
  for (let r = 0; r < rows && m > 0; r += step) {
    const count = Math.min(step, rows - r)
    unpack(r * columns, (r + count) * columns, (data) => {
      const panel = { data, dtype: "f32", offset: 0, ld: columns, trans: !transpose } as const
      const part = { ...left, offset: transpose ? r : 0 }
      if (transpose) gemm.run(m, columns, count, alpha, part, panel, r > 0 ? 1 : beta, out, 0, columns)
      else gemm.run(m, count, columns, alpha, part, panel, beta, out, r, rows)
    })
  }
}
