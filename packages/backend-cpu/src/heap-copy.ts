/** Copies and zeros inside the heap: the engine's own are slow on shared memory. */
import { perHeap } from "./heap.ts"
import { advance, times } from "./wasm-loop.ts"
import { wasmFunction } from "./wasm-module.ts"
import { i32, op } from "./wasm-op.ts"

/**
 * zero(at, bytes); copyRows(to, from, bytes, rows, toStep, fromStep): `rows` runs of `bytes`, whose beginnings lie that many bytes apart.
 * Source and target may not overlap.
 */
export const heapCopies: ReturnType<typeof perHeap<HeapCopies>> = perHeap(
  (heap) => heap.load([zero, copyRows]) as unknown as HeapCopies,
)

interface HeapCopies {
  zero(at: number, bytes: number): void
  copyRows(to: number, from: number, bytes: number, rows: number, toStep: number, fromStep: number): void
}

const zero = wasmFunction("zero", { at: "i32", bytes: "i32" }, ({ param }) =>
  op.fill(op.get(param.at), i32.const(0), op.get(param.bytes)),
)

const copyRows = wasmFunction(
  "copyRows",
  { to: "i32", from: "i32", bytes: "i32", rows: "i32", toStep: "i32", fromStep: "i32" },
  ({ param: { to, from, bytes, rows, toStep, fromStep } }) =>
    times(rows, [
      ...op.copy(op.get(to), op.get(from), op.get(bytes)),
      ...advance(to, op.get(toStep)),
      ...advance(from, op.get(fromStep)),
    ]),
)
