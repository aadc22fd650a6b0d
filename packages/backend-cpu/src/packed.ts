/**
 * Products with packed matrices: panels of rows are unpacked into scratch memory and go to the ordinary product, so that no more than a
 * panel exists as f32. Knows no layouts and no formats.
 */
import { type FusedKernels, invariant } from "@peftjs/core"
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

export function createPackedMatmul({ alloc, heap }: Memory, gemm: Gemm): FusedKernels["packedMatmul"] {
  return (x, w, { m, rows, columns, transpose }) => {
    const depth = transpose ? rows : columns
    invariant(x.length === m * depth, `backend-cpu: packedMatmul of ${x.length} elements as [${m}, ${depth}]`)
    const unpack = unpacker(heap, w)
    const out = alloc("f32", m * (transpose ? columns : rows))
    const left = { data: f32Of(x), dtype: "f32", ld: depth, trans: false } as const
    const step = Math.max(1, Math.min(rows, Math.floor(panelElements / columns)))
    for (let r = 0; r < rows && m > 0; r += step) {
      const count = Math.min(step, rows - r)
      unpack(r * columns, (r + count) * columns, (data) => {
        const panel = { data, dtype: "f32", offset: 0, ld: columns, trans: !transpose } as const
        const part = { ...left, offset: transpose ? r : 0 }
        if (transpose) gemm.run(m, columns, count, 1, part, panel, r > 0 ? 1 : 0, out.data, 0, columns)
        else gemm.run(m, count, columns, 1, part, panel, 0, out.data, r, rows)
      })
    }
    return out
  }
}
