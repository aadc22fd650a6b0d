/**
 * Blocks of 32 values as ggml packs them (quantize_row_*_ref and dequantize_row_* of ggml-quants.c): between their bytes, and codes, scales
 * and minimums in the order of the values. In a file a byte of Q4 holds elements j and j + 16; here the even element is in the high half.
 * Knows no files and no device.
 */
import { type PackedData, PeftError, valueBlocks } from "@peftjs/core"
import { toFloat16, toFloat32 } from "@peftjs/safetensors"
import { type PackedKind, packedKinds } from "./kinds.ts"

export const blockValues = 32
const half = blockValues / 2
const f32 = Math.fround

/** The code book of a kind: what each code is worth before its block's scale. */
export const codeBooks: Readonly<Record<PackedKind, Float32Array>> = {
  Q4_0: Float32Array.from({ length: 16 }, (_, code) => code - 8),
  Q4_1: Float32Array.from({ length: 16 }, (_, code) => code),
  Q8_0: Float32Array.from({ length: 256 }, (_, code) => (code < 128 ? code : code - 256)),
}

/** Codes, scales and minimums of whole blocks as files hold them. */
export function unpackBlocks(kind: PackedKind, bytes: Uint8Array): PackedData {
  const size = packedKinds[kind].bytes
  const blocks = bytes.length / size
  const header = kind === "Q4_1" ? 4 : 2
  const halves = new Uint16Array((blocks * header) / 2)
  const own = size - header
  const codes = new Uint8Array(blocks * own)
  const each = header / 2
  for (let block = 0; block < blocks; block++) {
    const at = block * size
    for (let i = 0; i < each; i++)
      halves[block * each + i] = (bytes[at + 2 * i] as number) | ((bytes[at + 2 * i + 1] as number) << 8)
    const from = at + header
    const to = block * own
    if (kind === "Q8_0") codes.set(bytes.subarray(from, from + own), to)
    else
      for (let j = 0; j < half; j += 2) {
        const [a, b] = [bytes[from + j] as number, bytes[from + j + 1] as number]
        codes[to + j / 2] = ((a & 15) << 4) | (b & 15)
        codes[to + (half + j) / 2] = (a & 0xf0) | (b >> 4)
      }
  }
  const values = toFloat32("F16", halves)
  if (each === 1) return { codes, scales: values }
  return {
    codes,
    scales: values.filter((_, i) => i % 2 === 0),
    minimums: values.filter((_, i) => i % 2 === 1),
  }
}

/** Takes values in order, in pieces of any length. */
export interface Quantiser {
  push(values: Float32Array): void
  /** Throws E_SHAPE when fewer values came than there should be. */
  finish(): PackedData
}

/** For a matrix of `elements` values; the last block may be short. Throws E_SHAPE (too many values), E_NOT_FINITE. */
export function quantiser(kind: PackedKind, elements: number): Quantiser {
  const blocks = Math.ceil(elements / blockValues)
  const bits = kind === "Q8_0" ? 8 : 4
  const codes = new Uint8Array(Math.ceil((elements * bits) / 8))
  const scales = new Float32Array(blocks)
  const minimums = kind === "Q4_1" ? new Float32Array(blocks) : undefined
  const given = valueBlocks(kind, elements, blockValues, (values, start) => {
    const block = start / blockValues
    const { scale, minimum, codeOf } = quantise[kind](values)
    scales[block] = halved(scale, kind)
    if (minimums) minimums[block] = halved(minimum, kind)
    for (const [i, value] of values.entries()) {
      const [code, at] = [codeOf(value), start + i]
      if (bits === 8) codes[at] = code & 255
      else codes[at >> 1] = (codes[at >> 1] as number) | (at % 2 === 0 ? code << 4 : code)
    }
  })
  return {
    push: given.push,
    finish() {
      given.finish()
      return { codes, scales, ...(minimums ? { minimums } : {}) }
    },
  }
}

interface Block {
  /** Before they are rounded to 16 bits: codes are found with these, as in ggml. */
  readonly scale: number
  readonly minimum: number
  codeOf(x: number): number
}

/** Every operation is rounded to float32, as C does it there without fused multiply-adds. */
const quantise: Readonly<Record<PackedKind, (values: Float32Array) => Block>> = {
  Q4_0(values) {
    // NaN stays.
    const most = values.reduce((a, b) => (Math.abs(b) > Math.abs(a) || Number.isNaN(b) ? b : a), 0)
    const scale = f32(most / -8)
    const inverse = inverted(scale)
    return { scale, minimum: 0, codeOf: (x) => Math.min(15, Math.trunc(f32(f32(x * inverse) + 8.5))) }
  },
  Q4_1(values) {
    const minimum = values.reduce((a, b) => Math.min(a, b))
    const scale = f32(f32(values.reduce((a, b) => Math.max(a, b)) - minimum) / 15)
    const inverse = inverted(scale)
    return { scale, minimum, codeOf: (x) => Math.min(15, Math.trunc(f32(f32(f32(x - minimum) * inverse) + 0.5))) }
  },
  Q8_0(values) {
    const scale = f32(values.reduce((a, b) => Math.max(a, Math.abs(b)), 0) / 127)
    const inverse = inverted(scale)
    // A half goes away from zero.
    return { scale, minimum: 0, codeOf: (x) => Math.sign(x) * Math.floor(f32(Math.abs(x) * inverse) + 0.5) }
  },
}

const inverted = (scale: number): number => (scale === 0 ? 0 : f32(1 / scale))

/** Rounded to float16, which is what a block stores. Throws E_NOT_FINITE. */
function halved(value: number, kind: PackedKind): number {
  const [found] = toFloat32("F16", toFloat16(Float32Array.of(value)))
  if (Number.isFinite(found)) return found as number
  throw new PeftError(
    "E_NOT_FINITE",
    `[gguf] a block of a weight has the scale ${value}, which the float16 of ${kind} cannot hold: the weight holds NaN, Inf or values beyond 65504`,
  )
}
