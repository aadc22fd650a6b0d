/**
 * What a packed matrix looks like, as plain data: formats produce it, core computes with it, backends may. Knows no format by name, no
 * tensors and no device.
 */
import { fromFloat32, toFloat32 } from "@peftjs/safetensors"
import { fileDtypes } from "./dtype.ts"

/**
 * The value at flat index i (row-major, from the matrix's first element on, across row ends) is
 * codeBook[code i] · scale[⌊i / blockSize⌋] + minimum[⌊i / blockSize⌋], in f32.
 */
export interface PackedLayout {
  /** "nf4": what the weight's format is called. */
  readonly format: string
  /** Of a code. With 4 the even flat index is in the high half of a byte. */
  readonly bits: 4 | 8
  /** Value of each code: 16 or 256. Weights that share the array share the device's copy. */
  readonly codeBook: Float32Array
  /** Elements under one scale; even where codes have 4 bits. The last block may be short. */
  readonly blockSize: number
  /** The type the matrix had before, which files tell. Nothing is rounded to it: products are computed in f32. */
  readonly dtype: "f32" | "f16" | "bf16"
  /** Scales that are packed themselves: scale j is codeBook[code j] · nestedScale[⌊j / blockSize⌋] + offset. */
  readonly nested?: {
    /** 256 values. */
    readonly codeBook: Float32Array
    /** Scales under one nested scale. */
    readonly blockSize: number
    readonly offset: number
  }
}

/** The contents of a packed matrix on the host. */
export interface PackedData {
  /** Two to a byte or one. */
  readonly codes: Uint8Array
  /** One for each block: f32, or where scales are nested their codes. */
  readonly scales: Float32Array | Uint8Array
  readonly nestedScales?: Float32Array
  /** Added to each block's values. */
  readonly minimums?: Float32Array
}

/** Values rounded to a 16-bit type, or as they are. */
export function roundedTo(dtype: PackedLayout["dtype"], values: Float32Array): Float32Array {
  return toFloat32(fileDtypes[dtype], fromFloat32(fileDtypes[dtype], values))
}

/** How many codes, scales and nested scales a matrix of so many elements has. */
export function packedSizes(
  { bits, blockSize, nested }: PackedLayout,
  elements: number,
): { readonly bytes: number; readonly blocks: number; readonly nestedBlocks: number } {
  const blocks = Math.ceil(elements / blockSize)
  return {
    bytes: Math.ceil((elements * bits) / 8),
    blocks,
    nestedBlocks: nested ? Math.ceil(blocks / nested.blockSize) : 0,
  }
}

/** The value of every byte: pairs, of its high and its low half, where codes have 4 bits. */
export function bytesTable({ bits, codeBook }: Pick<PackedLayout, "bits" | "codeBook">): Float32Array {
  if (bits === 8) return codeBook
  return Float32Array.from({ length: 512 }, (_, i) => codeBook[i % 2 === 0 ? i >> 5 : (i >> 1) & 15] as number)
}
