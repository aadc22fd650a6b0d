/**
 * Products with packed matrices: panels of rows are unpacked into scratch memory and go to the ordinary product, so that no more than a
 * panel exists as f32. Knows layouts, no formats.
 */
import { type DeviceBuffer, type FusedKernels, invariant, type PackedOperand } from "@peftjs/core"
import { dataOf, f32Of, type Memory } from "./buffers.ts"
import type { Gemm } from "./gemm.ts"

/** Elements of a panel: 1 MiB of f32, which stays in the second-level cache of most machines. */
const panelElements = 2 ** 18

export function createUnpack(memory: Memory): FusedKernels["unpack"] {
  return (w, { start, end, columns }) => {
    const unpack = unpacker(w)
    const out = memory.alloc("f32", (end - start) * columns)
    unpack(start * columns, end * columns, out.data)
    return out
  }
}

export function createPackedMatmul(memory: Memory, gemm: Gemm): FusedKernels["packedMatmul"] {
  let scratch = new Float32Array(0)
  return (x, w, { m, rows, columns, transpose }) => {
    invariant(
      x.length === m * (transpose ? rows : columns),
      `backend-cpu: packedMatmul of ${x.length} elements as [${m}, ${transpose ? rows : columns}]`,
    )
    const data = f32Of(x)
    const unpack = unpacker(w)
    const out = memory.alloc("f32", m * (transpose ? columns : rows))
    const step = Math.max(1, Math.min(rows, Math.floor(panelElements / columns)))
    if (scratch.length < step * columns) scratch = new Float32Array(step * columns)
    const panel = { data: scratch, dtype: "f32", offset: 0, ld: columns } as const
    for (let r = 0; r < rows && m > 0; r += step) {
      const count = Math.min(step, rows - r)
      unpack(r * columns, (r + count) * columns, scratch)
      const left = {
        data,
        dtype: "f32",
        offset: transpose ? r : 0,
        ld: transpose ? rows : columns,
        trans: false,
      } as const
      if (transpose)
        gemm.run(m, columns, count, 1, left, { ...panel, trans: false }, r > 0 ? 1 : 0, out.data, 0, columns)
      else gemm.run(m, count, columns, 1, left, { ...panel, trans: true }, 0, out.data, r, rows)
    }
    return out
  }
}

/** Writes elements first…last-1, counted from the operand's first row, to the front of a target. */
function unpacker({
  layout,
  offset,
  skip,
  ...w
}: PackedOperand): (first: number, last: number, target: Float32Array) => void {
  const codes = bytesOf(w.codes)
  const scaleAt = scales(layout, skip, w)
  const minimums = w.minimums ? f32Of(w.minimums) : undefined
  const { blockSize, codeBook, bits } = layout
  const table = new Float32Array(codeBook.length)
  return (first, last, target) => {
    const end = offset + last
    for (let at = offset + first, to = 0; at < end; ) {
      const block = Math.floor(at / blockSize)
      const stop = Math.min(end, (block + 1) * blockSize)
      const [scale, low] = [scaleAt(block), minimums ? (minimums[block] as number) : 0]
      if (bits === 8 && stop - at < codeBook.length) {
        for (; at < stop; at++, to++) target[to] = Math.fround((codeBook[codes[at] as number] as number) * scale) + low
        continue
      }
      // What each code stands for in this block; Float32Array rounds.
      for (let c = 0; c < table.length; c++) table[c] = Math.fround((codeBook[c] as number) * scale) + low
      if (bits === 8) for (; at < stop; at++, to++) target[to] = table[codes[at] as number] as number
      else {
        const count = stop - at
        nibbles(codes, at, count, table, target, to)
        at = stop
        to += count
      }
    }
  }
}

/** Codes of 4 bits from flat index `at` on; the even one is in the high half. */
function nibbles(
  codes: Uint8Array,
  at: number,
  count: number,
  table: Float32Array,
  target: Float32Array,
  to: number,
): void {
  let [i, o] = [at, to]
  const end = at + count
  if (i % 2 === 1 && i < end) {
    target[o++] = table[(codes[i >> 1] as number) & 15] as number
    i++
  }
  for (; i + 1 < end; i += 2, o += 2) {
    const byte = codes[i >> 1] as number
    target[o] = table[byte >> 4] as number
    target[o + 1] = table[byte & 15] as number
  }
  if (i < end) target[o] = table[(codes[i >> 1] as number) >> 4] as number
}

function scales(
  { nested }: PackedOperand["layout"],
  skip: number,
  w: Pick<PackedOperand, "scales" | "nested">,
): (block: number) => number {
  if (!nested || !w.nested) {
    const plain = f32Of(w.scales)
    return (block) => plain[skip + block] as number
  }
  const [codes, outer] = [bytesOf(w.scales), f32Of(w.nested.scales)]
  const { codeBook, blockSize, offset } = nested
  return (block) => {
    const at = skip + block
    const value = Math.fround((codeBook[codes[at] as number] as number) * (outer[Math.floor(at / blockSize)] as number))
    return Math.fround(value + offset)
  }
}

function bytesOf(buffer: DeviceBuffer): Uint8Array {
  invariant(buffer.dtype === "u8", `backend-cpu: packed codes are ${buffer.dtype}, not u8`)
  return dataOf(buffer) as Uint8Array
}
