/** Instructions on the sixteen bytes of a vector, beside those of wasm-op.ts (core specification 2.0, chapter 5.4). */
import { type Code, u32 } from "./wasm-op.ts"

export const i8x16 = {
  /** Byte i is byte bytes[i] of the 32 of both operands. */
  shuffle: (bytes: readonly number[], a: Code, b: Code): Code => [...a, ...b, 0xfd, 13, ...bytes],
  /** Byte i is byte index[i] of a table of 16; 0 where the index is larger. */
  swizzle: (table: Code, index: Code): Code => [...table, ...index, 0xfd, 14],
  shrU: (bytes: Code, count: Code): Code => [...bytes, ...count, 0xfd, 109],
} as const

/** An unsigned byte. */
export const load8U = (address: Code, offset = 0): Code => [...address, 0x2d, 0, ...u32(offset)]

/** `old` with the 32 bits at `address` in one lane. */
export const load32Lane = (lane: number, address: Code, old: Code): Code => [...address, ...old, 0xfd, 86, 0, 0, lane]
