/**
 * Operands where WebAssembly can reach them as f32: where they lie, if that is in the heap, else copied to scratch, block of rows by block.
 * Knows buffers and element types, not what is computed.
 */
import { bytesPerElement, type DeviceBuffer, type DType, hostView, invariant, type TypedArray } from "@peftjs/core"
import { addressOf, dataOf } from "./buffers.ts"
import { type Heap, perHeap, placeOf } from "./heap.ts"
import { loadFour } from "./wasm-element.ts"
import { advance } from "./wasm-loop.ts"
import { type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { i32, op, v128 } from "./wasm-op.ts"

/** An operand of a kernel that goes through its operands row by row. */
export interface Part {
  readonly buffer: DeviceBuffer
  /** Elements per row; 0 if every row needs the whole buffer. */
  readonly width: number
  /** "read": any type, seen as f32. The others are f32; with "update" the kernel reads what it overwrites. */
  readonly access: "read" | "write" | "update"
}

/** f32 elements of a block: with a few operands they stay in the second-level cache. */
export const blockElements: number = 2 ** 14

const scratchAlignment = 16

/**
 * Calls `body` with the parts' addresses, for all rows at once if every part lies in the heap as f32, else for blocks of rows in order.
 * Vectors may go past the end of a block: what they write there is written again or lies behind the buffer.
 */
export function overRows(
  heap: Heap,
  rows: number,
  parts: readonly Part[],
  body: (rows: number, addresses: readonly number[], first: number) => void,
): void {
  if (rows === 0) return
  const direct = parts.map((part) => (part.buffer.dtype === "f32" ? addressOf(part.buffer) : undefined))
  if (direct.every((address) => address !== undefined)) {
    body(rows, direct, 0)
    return
  }
  const widest = Math.max(1, ...parts.map((part, i) => (direct[i] === undefined ? part.width : 0)))
  const step = Math.min(rows, Math.max(1, Math.floor(blockElements / widest)))
  const sizes = parts.map(({ buffer, width }, i) =>
    direct[i] === undefined ? (width === 0 ? buffer.length : step * width) : 0,
  )
  const bytes = sizes.map((n) => Math.ceil((4 * n + scratchAlignment) / scratchAlignment) * scratchAlignment)
  heap.scratch(
    bytes.reduce((a, b) => a + b, 0),
    (scratch) => {
      const places = bytes.map((_, i) => bytes.slice(0, i).reduce((a, b) => a + b, scratch))
      parts.forEach(({ buffer, width }, i) => {
        if (direct[i] === undefined && width === 0) bring(heap, buffer, 0, buffer.length, places[i] as number)
      })
      for (let first = 0; first < rows; first += step) {
        const count = Math.min(step, rows - first)
        const addresses = parts.map(({ buffer, width, access }, i) => {
          const inside = direct[i]
          if (inside !== undefined) return inside + 4 * first * width
          if (width > 0 && access !== "write") bring(heap, buffer, first * width, count * width, places[i] as number)
          return places[i] as number
        })
        body(count, addresses, first)
        parts.forEach(({ buffer, width, access }, i) => {
          if (direct[i] !== undefined || access === "read") return
          invariant(buffer.dtype === "f32", `backend-cpu: a kernel cannot write ${buffer.dtype}`)
          dataOf(buffer).set(heapView(heap, "f32", places[i] as number, count * width), first * width)
        })
      }
    },
  )
}

/** Elements first…first+n-1 of a buffer, widened to f32, at `to` in the heap. */
export function bring(heap: Heap, buffer: DeviceBuffer, first: number, n: number, to: number): void {
  const { dtype } = buffer
  const size = bytesPerElement[dtype]
  const data = dataOf(buffer)
  const inside = placeOf(heap, data)
  if (inside !== undefined) {
    widen(heap)[dtype]?.(inside + first * size, to, n)
    return
  }
  // Narrow elements go to the end of their place: widening walks upwards and never overtakes what it reads.
  const at = to + (4 - size) * n
  heapView(heap, dtype, at, n).set(data.subarray(first, first + n))
  if (dtype !== "f32") widen(heap)[dtype]?.(at, to, n)
}

/** The heap's memory as an array; valid until the memory grows where it is not shared. */
export function heapView(heap: Heap, dtype: DType, address: number, length: number): TypedArray {
  return hostView(dtype, heap.buffer(), address, length)
}

/** By type: (from, to, n) widens n elements. */
const widen = perHeap((heap) => heap.load((["f32", "f16", "bf16", "i32", "u32", "u8"] as const).map(widening)))

function widening(dtype: DType): WasmFunction {
  return wasmFunction(dtype, { from: "i32", to: "i32", n: "i32" }, (scope) => {
    const { from, to, n } = scope.param
    const end = scope.local("i32")
    const body = [
      ...v128.store(op.get(to), loadFour(scope, dtype, op.get(from))),
      ...advance(from, 4 * bytesPerElement[dtype]),
      ...advance(to, 16),
      ...i32.ltU(op.get(to), op.get(end)),
    ]
    return [
      ...op.set(end, i32.add(op.get(to), i32.shl(op.get(n), i32.const(2)))),
      ...op.get(n),
      ...op.when(op.loop(body)),
    ]
  })
}
