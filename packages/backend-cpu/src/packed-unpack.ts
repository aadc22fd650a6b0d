/**
 * Values of a packed matrix as f32, some consecutive ones at a time: by WebAssembly where there is a heap, else by plain loops.
 * Knows layouts, no formats and no products.
 */
import { type DeviceBuffer, invariant, type PackedOperand } from "@peftjs/core"
import { addressOf, dataOf, f32Of } from "./buffers.ts"
import { type Heap, perHeap, scratchBytes } from "./heap.ts"
import { byteTables, overrun, stepsOf, unpackFunctions } from "./packed-code.ts"
import { bring, heapView } from "./staging.ts"

/** Calls `body` with elements first…last-1, counted from the operand's first row; they are gone when it returns. */
export type Unpacker = (first: number, last: number, body: (values: Float32Array) => void) => void

export function unpacker(heap: Heap | undefined, w: PackedOperand): Unpacker {
  // What a block that is cut by either end needs more than the values, plus their codes, stays below as much again.
  const roomy = (first: number, last: number): boolean => 8 * (last - first + 2 * w.layout.blockSize) <= scratchBytes
  const slow = plainUnpacker(w)
  if (heap === undefined) return slow
  return (first, last, body) =>
    roomy(first, last) ? unpackInside(heap, w, first, last, body) : slow(first, last, body)
}

const functions = perHeap((heap) => heap.load(unpackFunctions()))

const tables = new WeakMap<Float32Array, Uint8Array>()

function unpackInside(
  heap: Heap,
  w: PackedOperand,
  first: number,
  last: number,
  body: (values: Float32Array) => void,
): void {
  const { layout, offset, codes, minimums } = w
  const { blockSize, bits, codeBook } = layout
  const [from, to] = [Math.floor((offset + first) / blockSize), Math.ceil((offset + last) / blockSize)]
  const [count, blockCodes] = [to - from, (blockSize * bits) / 8]
  const bookBytes = bits === 4 ? 64 : 1024
  const [codeBytes, scaleBytes] = [count * blockCodes, 4 * count + 12]
  const valueBytes = 4 * count * blockSize + overrun
  heap.scratch(valueBytes + bookBytes + 2 * scaleBytes + codeBytes + 16, (values) => {
    const book = values + valueBytes
    const scales = book + bookBytes
    const low = scales + scaleBytes
    const packed = low + scaleBytes
    if (bits === 8) heapView(heap, "f32", book, 256).set(codeBook)
    else {
      const table = tables.get(codeBook) ?? byteTables(codeBook)
      tables.set(codeBook, table)
      heapView(heap, "u8", book, 64).set(table)
    }
    scalesAt(heap, w, from, count, scales)
    if (minimums) bring(heap, minimums, from, count, low)
    const inside = addressOf(codes)
    if (inside === undefined)
      heapView(heap, "u8", packed, codeBytes).set(bytesOf(codes).subarray(from * blockCodes, to * blockCodes))
    const run = functions(heap)[`unpack${bits}${minimums ? "From" : ""}`] as (...args: number[]) => number
    const codesAt = inside === undefined ? packed : inside + from * blockCodes
    run(codesAt, book, scales, low, values, count, stepsOf(bits, blockSize), blockCodes, 4 * blockSize)
    const gap = offset + first - from * blockSize
    body(heapView(heap, "f32", values + 4 * gap, last - first) as Float32Array)
  })
}

/** Scales of `count` blocks from `from` on, at `to` in the heap. */
function scalesAt(heap: Heap, w: PackedOperand, from: number, count: number, to: number): void {
  if (w.layout.nested) readScales(w, from, heapView(heap, "f32", to, count) as Float32Array)
  else bring(heap, w.scales, w.skip + from, count, to)
}

function plainUnpacker(w: PackedOperand): Unpacker {
  const { layout, offset } = w
  const codes = bytesOf(w.codes)
  const minimums = w.minimums ? f32Of(w.minimums) : undefined
  const { blockSize, codeBook, bits } = layout
  const table = new Float32Array(codeBook.length)
  return (first, last, body) => {
    const target = new Float32Array(last - first)
    const end = offset + last
    const from = Math.floor((offset + first) / blockSize)
    const scales = new Float32Array(Math.ceil(end / blockSize) - from)
    readScales(w, from, scales)
    for (let at = offset + first, to = 0; at < end; ) {
      const block = Math.floor(at / blockSize)
      const stop = Math.min(end, (block + 1) * blockSize)
      const [scale, low] = [scales[block - from] as number, minimums ? (minimums[block] as number) : 0]
      // What each code stands for in this block; Float32Array rounds.
      for (let c = 0; c < table.length; c++) table[c] = Math.fround((codeBook[c] as number) * scale) + low
      for (; at < stop; at++, to++) target[to] = table[bits === 8 ? (codes[at] as number) : nibble(codes, at)] as number
    }
    body(target)
  }
}

/** The code of 4 bits at a flat index; the even one is in the high half. */
function nibble(codes: Uint8Array, at: number): number {
  const byte = codes[at >> 1] as number
  return at % 2 === 0 ? byte >> 4 : byte & 15
}

/** Scales of the blocks from `from` on, as many as `target` takes. */
function readScales({ layout: { nested }, skip, ...w }: PackedOperand, from: number, target: Float32Array): void {
  const count = target.length
  if (!nested || !w.nested) {
    target.set(f32Of(w.scales).subarray(skip + from, skip + from + count))
    return
  }
  const [codes, outer] = [bytesOf(w.scales), f32Of(w.nested.scales)]
  const { codeBook, blockSize, offset } = nested
  for (let at = skip + from, i = 0; i < count; ) {
    const scale = outer[Math.floor(at / blockSize)] as number
    const stop = Math.min(count, i + blockSize - (at % blockSize))
    for (; i < stop; i++, at++) target[i] = Math.fround((codeBook[codes[at] as number] as number) * scale) + offset
  }
}

function bytesOf(buffer: DeviceBuffer): Uint8Array {
  invariant(buffer.dtype === "u8", `backend-cpu: packed codes are ${buffer.dtype}, not u8`)
  return dataOf(buffer) as Uint8Array
}
