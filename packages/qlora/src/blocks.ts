/**
 * Quantising a matrix that arrives row by row, in blocks over the flattened matrix, with the roundings of bitsandbytes 0.50.2 on a CPU.
 * Knows no files and no device.
 */
import { PeftError, valueBlocks } from "@peftjs/core"
import { type CodeBook, dynamicBook, nearest, searcher } from "./code-books.ts"

export interface FourBit {
  /** Two to a byte, the even flat index in the high half. */
  readonly codes: Uint8Array
  /** One for each block. */
  readonly absmax: Float32Array
}

/** Takes values in order, in pieces of any length. */
export interface Quantiser {
  push(values: Float32Array): void
  /** Throws E_SHAPE when fewer values came than there should be. */
  finish(): FourBit
}

/** For a matrix of `elements` values. Throws E_SHAPE (too many values), E_NOT_FINITE. */
export function fourBitQuantiser(format: string, book: CodeBook, blockSize: number, elements: number): Quantiser {
  const { order } = book
  const search = searcher(book)
  const codes = new Uint8Array(Math.ceil(elements / 2))
  const absmax = new Float32Array(Math.ceil(elements / blockSize))
  const fill = (at: number, count: number, code: number): void => {
    // Blocks begin at a byte; what pads an odd end is filled in later, with the same.
    codes.fill((code << 4) | code, at >> 1, (at + count) >> 1)
    if (count % 2 !== 0) codes[(at + count) >> 1] = code << 4
  }
  const given = valueBlocks(format, elements, blockSize, (block, start) => {
    const count = block.length
    const top = largest(format, block, count)
    // A short last block divides; the others multiply by the inverse.
    const short = count < blockSize
    const scale = short ? Math.max(top, Math.fround(1e-38)) : top
    absmax[start / blockSize] = scale
    if (top === 0) {
      fill(start, count, order[nearest(book, 0)] as number)
      return
    }
    const inverse = Math.fround(1 / scale)
    for (let i = 0; i < count; i++) {
      const x = block[i] as number
      const code = order[search(Math.fround(short ? x / scale : x * inverse))] as number
      const at = start + i
      codes[at >> 1] = (codes[at >> 1] as number) | (at % 2 === 0 ? code << 4 : code)
    }
  })
  return {
    push: given.push,
    finish() {
      given.finish()
      // What pads an odd end is quantised like any zero.
      const last = codes.length - 1
      if (elements % 2 !== 0) codes[last] = (codes[last] as number) | (order[nearest(book, 0)] as number)
      return { codes, absmax }
    },
  }
}

/** The largest magnitude of the first n values. Throws E_NOT_FINITE. */
export function largest(format: string, values: Float32Array, n: number): number {
  let top = 0
  for (let i = 0; i < n; i++) {
    const size = Math.abs(values[i] as number)
    if (size <= top) continue
    // NaN is not below anything.
    top = size
    if (!Number.isFinite(top)) break
  }
  if (Number.isFinite(top)) return top
  throw new PeftError(
    "E_NOT_FINITE",
    `[qlora] a weight holds NaN or Inf, which ${format} cannot; "peft inspect --check-finite" tells which tensor of the folder`,
  )
}

export const nestedBlockSize = 256

export interface Nested {
  readonly codes: Uint8Array
  readonly scales: Float32Array
  readonly offset: number
}

/**
 * Double quantisation: scales less their mean, in blocks of 256, as codes of the dynamic map. A CPU puts them into 65 536 bins first.
 * A block of equal scales has the nested scale 0 and codes 0.
 */
export function nest(format: string, absmax: Float32Array): Nested {
  let sum = 0
  for (const x of absmax) sum += x
  const offset = Math.fround(sum / absmax.length)
  const centred = absmax.map((x) => x - offset)
  const codes = new Uint8Array(absmax.length)
  const scales = new Float32Array(Math.ceil(absmax.length / nestedBlockSize))
  for (const block of scales.keys()) {
    const values = centred.subarray(block * nestedBlockSize, (block + 1) * nestedBlockSize)
    const top = largest(format, values, values.length)
    scales[block] = top
    if (top === 0) continue
    for (let i = 0; i < values.length; i++) {
      const z = Math.fround((values[i] as number) / top)
      // In f32 as there: where a bin begins, the rounding decides.
      const bin = Math.floor(Math.fround(Math.fround(Math.fround(z + 1) * 32767.5) + 0.5))
      codes[block * nestedBlockSize + i] = nearest(dynamicBook, -1 + (2 * bin) / 65535)
    }
  }
  return { codes, scales, offset }
}
