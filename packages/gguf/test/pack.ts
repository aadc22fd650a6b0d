/** Values as ggml's packed blocks, written here anew after gguf-py's quants.py: what the package packs is compared with it, and files are made of it. */
import { toFloat16 } from "@peftjs/safetensors"
import type { Encode } from "./tiny.ts"

export type Packed = "Q4_0" | "Q4_1" | "Q8_0"
export const packedTypes = { Q4_0: 2, Q4_1: 3, Q8_0: 8 } as const

const half = (x: number): number[] => [...new Uint8Array(toFloat16(Float32Array.of(x)).buffer)]

/** The file's bytes of whole blocks, with the simplest rounding: enough for values, not for equal bytes. */
export function packSimply(kind: Packed, values: Float32Array): Uint8Array {
  const out: number[] = []
  for (let at = 0; at < values.length; at += 32) {
    const block = [...values.subarray(at, at + 32)]
    const most = block.reduce((a, b) => Math.max(a, Math.abs(b)), 0)
    const least = Math.min(...block)
    const scale = kind === "Q8_0" ? most / 127 : kind === "Q4_0" ? most / 7 : (Math.max(...block) - least) / 15
    const of = (x: number): number => (scale === 0 ? 0 : Math.round((kind === "Q4_1" ? x - least : x) / scale))
    out.push(...half(scale), ...(kind === "Q4_1" ? half(least) : []))
    if (kind === "Q8_0") out.push(...block.map((x) => of(x) & 255))
    else {
      const codes = block.map((x) => of(x) + (kind === "Q4_0" ? 8 : 0))
      for (let j = 0; j < 16; j++) out.push((codes[j] as number) | ((codes[j + 16] as number) << 4))
    }
  }
  return Uint8Array.from(out)
}

/** Matrices as blocks of a kind. */
export const packedAs =
  (kind: Packed): Encode =>
  (_, values, shape) => ({ type: packedTypes[kind], shape, data: packSimply(kind, values) })

/** What blocks stand for, read byte by byte. */
export function valuesOf(kind: Packed, bytes: Uint8Array): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const size = { Q4_0: 18, Q4_1: 20, Q8_0: 34 }[kind]
  const out: number[] = []
  for (let at = 0; at < bytes.length; at += size) {
    const scale = halfAt(view, at)
    const minimum = kind === "Q4_1" ? halfAt(view, at + 2) : 0
    const first = at + (kind === "Q4_1" ? 4 : 2)
    for (let i = 0; i < 32; i++) {
      const byte = view.getUint8(first + (i % 16))
      const code = kind === "Q8_0" ? view.getInt8(first + i) : i < 16 ? byte & 15 : byte >> 4
      out.push(Math.fround(Math.fround((kind === "Q4_0" ? code - 8 : code) * scale) + minimum))
    }
  }
  return Float32Array.from(out)
}

function halfAt(view: DataView, at: number): number {
  const bits = view.getUint16(at, true)
  const [exponent, mantissa] = [(bits >> 10) & 31, bits & 1023]
  const size = exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15)
  return exponent === 31 ? Number.NaN : bits >> 15 ? -size : size
}
