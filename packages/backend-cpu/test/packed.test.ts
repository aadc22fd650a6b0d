/** Unpacking in WebAssembly gives the bits that plain loops give, whatever the layout and wherever a stretch begins and ends. */
import type { PackedLayout, PackedOperand } from "@peftjs/core"
import { expect, test } from "vitest"
import { createMemory } from "../src/buffers.ts"
import { createHeap, type Heap } from "../src/heap.ts"
import { unpacker } from "../src/packed-unpack.ts"
import { numbers } from "./helpers.ts"

const heap = createHeap() as Heap
/** With operands in the heap, and with all of them outside. */
const memories = [createMemory(2 ** 31, heap), createMemory(2 ** 31)]
const count = 1000

const bytes = (n: number, seed: number): Uint8Array => Uint8Array.from(numbers(n, seed), (x) => (x + 2) * 64)

/** So many elements before the first row's, and three scales before the first block's where scales are nested. */
function operand(layout: PackedLayout, from: boolean, offset: number, inside: boolean): PackedOperand {
  const memory = memories[inside ? 0 : 1] as (typeof memories)[number]
  const f32 = (n: number, seed: number) => memory.upload(numbers(n, seed), "f32")
  const blocks = Math.ceil((count + offset) / layout.blockSize)
  const skip = layout.nested ? 3 : 0
  return {
    layout,
    offset,
    skip,
    codes: memory.upload(bytes((blocks * layout.blockSize * layout.bits) / 8, 5), "u8"),
    book: f32(1, 1),
    scales: layout.nested ? memory.upload(bytes(blocks + skip, 6), "u8") : f32(blocks, 7),
    ...(from ? { minimums: f32(blocks, 8) } : {}),
    ...(layout.nested ? { nested: { scales: f32(Math.ceil((blocks + skip) / 8), 9), book: f32(1, 1) } } : {}),
  }
}

function values(on: Heap | undefined, w: PackedOperand, first: number, last: number): number[] {
  let found: number[] = []
  unpacker(on, w)(first, last, (data) => {
    found = [...data]
  })
  return found
}

const nested = { codeBook: numbers(256, 4), blockSize: 8, offset: 0.25 }

test.each([4, 8] as const)("codes of %i bits", (bits) => {
  const layouts = [2, 6, 32, 64, 70, 256].flatMap((blockSize) => {
    const plain = { format: "test", bits, codeBook: numbers(2 ** bits, 3), blockSize, dtype: "f32" } as const
    return [plain, { ...plain, nested }]
  })
  for (const layout of layouts) {
    for (const from of [false, true]) {
      for (const inside of [true, false]) {
        for (const offset of [0, 2, 5]) {
          const w = operand(layout, from, offset, inside)
          for (const [first, last] of [
            [0, count - offset],
            [3, 77],
            [100, 101],
            [64, 640],
          ] as const) {
            const what = `blocks of ${layout.blockSize}, ${from ? "minimums, " : ""}${offset} before, ${first}…${last}`
            expect(values(heap, w, first, last), what).toEqual(values(undefined, w, first, last))
          }
        }
      }
    }
  }
})

test("the plain loops read the even flat index from the high half of a byte", () => {
  const memory = memories[0] as (typeof memories)[number]
  const codeBook = Float32Array.from({ length: 16 }, (_, i) => i)
  const layout = { format: "test", bits: 4, codeBook, blockSize: 2, dtype: "f32" } as const
  const w = {
    ...{ layout, offset: 0, skip: 0, codes: memory.upload(Uint8Array.of(0x1f, 0x23), "u8") },
    ...{ book: memory.upload(codeBook, "f32"), scales: memory.upload(Float32Array.of(1, 10), "f32") },
  }
  expect(values(undefined, w, 0, 4)).toEqual([1, 15, 20, 30])
})
