/** A packed matrix on the host: its values by the layout's words, one after the other. Knows no device. */
import type { PackedData, PackedLayout } from "@peftjs/core"

/** Whole rows of a packed matrix as kernels get them, with arrays where those have buffers. */
export interface HostPart extends PackedData {
  readonly layout: PackedLayout
  /** Elements before the first row's. */
  readonly offset: number
  /** Scales before the first block's. */
  readonly skip: number
}

/** The first `count` elements of the part's rows. Arithmetic in f64: what the kit makes is exact in f32. */
export function packedValues(part: HostPart, count: number): Float32Array {
  const { layout, offset, skip, codes, scales, nestedScales, minimums } = part
  const { bits, codeBook, blockSize, nested } = layout
  // #region values
  const scaleAt = (at: number): number => {
    if (!nested || !nestedScales) return scales[at] as number
    const outer = nestedScales[Math.floor(at / nested.blockSize)] as number
    return (nested.codeBook[scales[at] as number] as number) * outer + nested.offset
  }
  return Float32Array.from({ length: count }, (_, i) => {
    const at = offset + i
    const block = Math.floor(at / blockSize)
    const byte = codes[bits === 8 ? at : at >> 1] as number
    const code = bits === 8 ? byte : at % 2 === 0 ? byte >> 4 : byte & 15
    return (codeBook[code] as number) * scaleAt(skip + block) + (minimums?.[block] ?? 0)
  })
  // #endregion
}
