/** NF4 and FP4 as weight formats: blocks over the flattened matrix, scales in f32 or quantised once more. Knows no model and no adapter. */
import {
  type PackedData,
  type PackedLayout,
  PeftError,
  packedWeight,
  type Weight,
  type WeightFormat,
} from "@peftjs/core"
import { blockSizes } from "./block-sizes.ts"
import { fourBitQuantiser, nest, nestedBlockSize } from "./blocks.ts"
import { type CodeBook, dynamicBook, fp4Book, nf4Book } from "./code-books.ts"
import { type EncodeFourBit, fourBitFiles, storedFourBit } from "./four-bit-files.ts"

export interface FourBitOptions {
  /** Values under one scale: 32, 64 (by default), 128 … 4096. */
  readonly blockSize?: number
  /** Quantise the scales as well: 4.13 bits a value instead of 4.5. */
  readonly doubleQuant?: boolean
}

/** The normal float of QLoRA: the best 4 bits for weights (Dettmers et al. 2023). Throws E_OPTION. */
export function nf4(options: FourBitOptions = {}): WeightFormat {
  return fourBit("nf4", nf4Book, options)
}

/** Floats of 4 bits, bitsandbytes' default. Throws E_OPTION. */
export function fp4(options: FourBitOptions = {}): WeightFormat {
  return fourBit("fp4", fp4Book, options)
}

function fourBit(name: "nf4" | "fp4", book: CodeBook, options: FourBitOptions): WeightFormat {
  const { blockSize = 64, doubleQuant = false } = options
  if (!blockSizes.includes(blockSize))
    throw new PeftError("E_OPTION", `[qlora] blockSize must be one of ${blockSizes.join(", ")}, not ${blockSize}`)
  return {
    name,
    files: fourBitFiles(name, book, { doubleQuant }, encode),
    encode: (backend, shape, rows, { dtype = "f32", source } = {}) =>
      encode(backend, { type: name, book, blockSize, doubleQuant, dtype }, shape, rows, source ? { source } : {}),
  }
}

const encode: EncodeFourBit = async (backend, packing, shape, rows, source = {}) => {
  const { type, book, blockSize, doubleQuant, dtype } = packing
  const quantiser = fourBitQuantiser(type, book, blockSize, shape[0] * shape[1])
  for await (const some of rows) quantiser.push(some)
  const { codes, absmax } = quantiser.finish()
  const plain = { format: type, bits: 4, codeBook: book.values, blockSize, dtype } as const
  const stored = (layout: PackedLayout, data: PackedData): Weight =>
    storedFourBit(packedWeight(backend, layout, shape, data, source), (more) => encode(backend, packing, shape, more))
  if (!doubleQuant) return stored(plain, { codes, scales: absmax })
  const { codes: scales, scales: nestedScales, offset } = nest(type, absmax)
  const nested = { codeBook: dynamicBook.values, blockSize: nestedBlockSize, offset }
  return stored({ ...plain, nested }, { codes, scales, nestedScales })
}
