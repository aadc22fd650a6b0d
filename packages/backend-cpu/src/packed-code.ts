/**
 * Unpacking in WebAssembly: whole blocks of codes become f32. A code of 4 bits is looked up in four tables of 16 bytes, one for each byte of
 * an f32, whose results are then woven together; a code of 8 bits reads its value. Knows layouts, no formats.
 * Blocks are written in order and in whole steps, so up to `overrun` bytes behind the last block's values are written too, and up to 16 bytes
 * behind its codes are read.
 */
import { i8x16, load8U, load32Lane } from "./wasm-byte-op.ts"
import { advance, times } from "./wasm-loop.ts"
import { type Scope, type WasmFunction, wasmFunction } from "./wasm-module.ts"
import { type Code, f32x4, i32, i32x4, op, v128 } from "./wasm-op.ts"

/** Values per step: 16 bytes of codes of 4 bits, or 4 of 8 bits. */
const step = { four: 32, eight: 4 }

export const overrun: number = 4 * step.four

/** A book of 16 values as four tables of one byte each: what `unpack4` takes. */
export function byteTables(codeBook: Float32Array): Uint8Array {
  const bytes = new Uint8Array(codeBook.buffer, codeBook.byteOffset, 64)
  return Uint8Array.from({ length: 64 }, (_, i) => bytes[4 * (i % 16) + Math.floor(i / 16)] as number)
}

const parameters = {
  codes: "i32",
  book: "i32",
  scales: "i32",
  minimums: "i32",
  out: "i32",
  // Counts of blocks, of steps in each, and bytes from one block to the next.
  blocks: "i32",
  steps: "i32",
  blockCodes: "i32",
  blockValues: "i32",
} as const
type Locals = Scope<keyof typeof parameters>

/** Functions of (codes, book, scales, minimums, out, blocks, steps, blockCodes, blockValues), with and without minimums. */
export const unpackFunctions = (): WasmFunction[] =>
  [false, true].flatMap((from) => [
    unpacking(from ? "unpack4From" : "unpack4", from, fourBits),
    unpacking(from ? "unpack8From" : "unpack8", from, eightBits),
  ])

/** Steps of a block of so many codes. */
export function stepsOf(bits: 4 | 8, blockSize: number): number {
  return Math.ceil(blockSize / (bits === 4 ? step.four : step.eight))
}

/** Writes one step: reads codes at `at`, writes at `to`, and moves both on. */
type Step = (locals: Locals, at: number, to: number, scaled: (value: Code) => Code) => { before: Code; body: Code }

function unpacking(name: string, from: boolean, writeStep: Step): WasmFunction {
  return wasmFunction(name, parameters, (locals) => {
    const { codes, scales, minimums, out, blocks, steps, blockCodes, blockValues } = locals.param
    const [at, to, left] = [locals.local("i32"), locals.local("i32"), locals.local("i32")]
    const [scale, minimum] = [locals.local("v128"), locals.local("v128")]
    const scaled = (value: Code): Code => {
      const product = f32x4.mul(value, op.get(scale))
      return from ? f32x4.add(product, op.get(minimum)) : product
    }
    const { before, body } = writeStep(locals, at, to, scaled)
    const perBlock = [
      ...op.set(scale, v128.load32Splat(op.get(scales))),
      ...(from ? [...op.set(minimum, v128.load32Splat(op.get(minimums))), ...advance(minimums, 4)] : []),
      ...[...op.set(at, op.get(codes)), ...op.set(to, op.get(out)), ...op.set(left, op.get(steps))],
      ...times(left, body),
      ...advance(scales, 4),
      ...advance(codes, op.get(blockCodes)),
      ...advance(out, op.get(blockValues)),
    ]
    return [...before, ...times(blocks, perBlock)]
  })
}

const pairs = (first: number, width: number): number[] =>
  Array.from({ length: 16 }, (_, i) => {
    const unit = Math.floor(i / width)
    return (unit % 2) * 16 + (first + Math.floor(unit / 2)) * width + (i % width)
  })
/** The lower or upper half of two vectors, element by element of `width` bytes in turn. */
const weave = (upper: boolean, width: number, a: Code, b: Code): Code =>
  i8x16.shuffle(pairs(upper ? 8 / width : 0, width), a, b)

function fourBits({ param, local }: Locals, at: number, to: number, scaled: (value: Code) => Code): ReturnType<Step> {
  const tables = [0, 1, 2, 3].map(() => local("v128"))
  const [low, high, index] = [local("v128"), local("v128"), local("v128")]
  // Bytes 0 and 1, and 2 and 3, of the first and of the last eight values.
  const halves = [0, 1].map(() => [local("v128"), local("v128")] as const)
  const looked = (byte: number): Code => i8x16.swizzle(op.get(tables[byte] as number), op.get(index))
  const bytes = [local("v128"), local("v128")] as const
  const sixteen = (upper: boolean): Code => [
    // The even flat index is in the high half of a byte.
    ...op.set(index, weave(upper, 1, op.get(high), op.get(low))),
    ...[0, 1].flatMap((half) => [
      ...op.set(bytes[0], looked(2 * half)),
      ...op.set(bytes[1], looked(2 * half + 1)),
      ...[0, 1].flatMap((part) =>
        op.set(
          (halves[part] as readonly number[])[half] as number,
          weave(part === 1, 1, op.get(bytes[0]), op.get(bytes[1])),
        ),
      ),
    ]),
    ...[0, 1, 2, 3].flatMap((quarter) => {
      const [lower, upperBytes] = halves[quarter >> 1] as readonly [number, number]
      const values = weave(quarter % 2 === 1, 2, op.get(lower), op.get(upperBytes))
      return v128.store(op.get(to), scaled(values), (upper ? 64 : 0) + 16 * quarter)
    }),
  ]
  return {
    before: tables.flatMap((table, byte) => op.set(table, v128.load(op.get(param.book), 16 * byte))),
    body: [
      ...op.set(low, v128.load(op.get(at))),
      ...op.set(high, i8x16.shrU(op.get(low), i32.const(4))),
      ...op.set(low, v128.and(op.get(low), i32x4.splatOf(0x0f0f0f0f))),
      ...sixteen(false),
      ...sixteen(true),
      ...op.set(at, i32.add(op.get(at), i32.const(16))),
      ...op.set(to, i32.add(op.get(to), i32.const(4 * step.four))),
    ],
  }
}

function eightBits({ param, local }: Locals, at: number, to: number, scaled: (value: Code) => Code): ReturnType<Step> {
  const values = local("v128")
  const entry = (index: number): Code => i32.add(op.get(param.book), i32.shl(load8U(op.get(at), index), i32.const(2)))
  return {
    before: [],
    body: [
      ...op.set(values, v128.load32Zero(entry(0))),
      ...[1, 2, 3].flatMap((lane) => op.set(values, load32Lane(lane, entry(lane), op.get(values)))),
      ...v128.store(op.get(to), scaled(op.get(values))),
      ...op.set(at, i32.add(op.get(at), i32.const(step.eight))),
      ...op.set(to, i32.add(op.get(to), i32.const(4 * step.eight))),
    ],
  }
}
