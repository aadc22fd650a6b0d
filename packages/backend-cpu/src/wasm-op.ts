/**
 * WebAssembly instructions as bytes, by the names of the specification (core specification 2.0, chapter 5.4, and the relaxed-simd proposal).
 * Code is built from the inside out: `f32x4.add(a, b)` is the code of both operands and then the instruction.
 */

export type Code = readonly number[]

/** Unsigned LEB128. */
export function u32(value: number): number[] {
  const out: number[] = []
  for (let rest = value >>> 0; ; rest >>>= 7) {
    if (rest < 128) return [...out, rest]
    out.push((rest & 127) | 128)
  }
}

/** Signed LEB128 of a 32-bit integer. */
export function s32(value: number): number[] {
  const out: number[] = []
  for (let rest = value | 0; ; rest >>= 7) {
    const byte = rest & 127
    if ((rest >> 6 === 0 && (byte & 64) === 0) || (rest >> 6 === -1 && (byte & 64) !== 0)) return [...out, byte]
    out.push(byte | 128)
  }
}

const simd = (opcode: number): number[] => [0xfd, ...u32(opcode)]
const memarg = (align: number, offset: number): number[] => [align, ...u32(offset)]
const bytesOf = (array: Float32Array | Float64Array | Int32Array): number[] => [...new Uint8Array(array.buffer)]

type Operator = (...operands: readonly Code[]) => Code
type Load = (address: Code, offset?: number) => Code
type Store = (address: Code, value: Code, offset?: number) => Code
type Lane = (index: number, ...operands: readonly Code[]) => Code
type LaneStore = (index: number, address: Code, value: Code) => Code

const plain =
  (opcode: number): Operator =>
  (...operands) => [...operands.flat(), opcode]
const vector =
  (opcode: number): Operator =>
  (...operands) => [...operands.flat(), ...simd(opcode)]
const load =
  (opcode: number) =>
  (address: Code, offset = 0): Code => [...address, ...simd(opcode), ...memarg(0, offset)]
const scalarLoad =
  (opcode: number) =>
  (address: Code, offset = 0): Code => [...address, opcode, ...memarg(0, offset)]
const scalarStore =
  (opcode: number) =>
  (address: Code, value: Code, offset = 0): Code => [...address, ...value, opcode, ...memarg(0, offset)]
const lane =
  (opcode: number) =>
  (index: number, ...operands: readonly Code[]): Code => [...operands.flat(), ...simd(opcode), index]

/** The instructions in use. A loop runs while the condition left on the stack by its body is not 0. */
export const op = {
  get: (local: number): Code => [0x20, ...u32(local)],
  set: (local: number, value: Code = []): Code => [...value, 0x21, ...u32(local)],
  drop: (value: Code): Code => [...value, 0x1a],
  tee: (local: number, value: Code = []): Code => [...value, 0x22, ...u32(local)],
  call: (index: number, ...operands: readonly Code[]): Code => [...operands.flat(), 0x10, ...u32(index)],
  loop: (body: Code): Code => [0x03, 0x40, ...body, 0x0d, 0, 0x0b],
  /** `body` unless the condition on the stack is 0. */
  when: (body: Code, otherwise?: Code): Code => [0x04, 0x40, ...body, ...(otherwise ? [0x05, ...otherwise] : []), 0x0b],
  /** memory.copy and memory.fill of bytes. */
  copy: (to: Code, from: Code, bytes: Code): Code => [...to, ...from, ...bytes, 0xfc, 10, 0, 0],
  fill: (at: Code, value: Code, bytes: Code): Code => [...at, ...value, ...bytes, 0xfc, 11, 0],
} as const

export const i32: { readonly const: (value: number) => Code } & Readonly<
  Record<"ltU" | "geU" | "add" | "sub" | "mul" | "and" | "xor" | "shl" | "shrU", Operator>
> &
  Readonly<Record<"load", Load>> &
  Readonly<Record<"store", Store>> = {
  const: (value: number): Code => [0x41, ...s32(value)],
  load: scalarLoad(0x28),
  store: scalarStore(0x36),
  ltU: plain(0x49),
  geU: plain(0x4f),
  add: plain(0x6a),
  sub: plain(0x6b),
  mul: plain(0x6c),
  and: plain(0x71),
  xor: plain(0x73),
  shl: plain(0x74),
  shrU: plain(0x76),
}

export const f32: { readonly const: (value: number) => Code } & Readonly<
  Record<"sqrt" | "add" | "sub" | "mul" | "div" | "max" | "demote", Operator>
> &
  Readonly<Record<"load", Load>> &
  Readonly<Record<"store", Store>> = {
  const: (value: number): Code => [0x43, ...bytesOf(Float32Array.of(value))],
  load: scalarLoad(0x2a),
  store: scalarStore(0x38),
  sqrt: plain(0x91),
  add: plain(0x92),
  sub: plain(0x93),
  mul: plain(0x94),
  div: plain(0x95),
  max: plain(0x97),
  demote: plain(0xb6),
}

export const f64: { readonly const: (value: number) => Code } & Readonly<
  Record<"sqrt" | "add" | "sub" | "mul" | "div" | "promote", Operator>
> = {
  const: (value: number): Code => [0x44, ...bytesOf(Float64Array.of(value))],
  sqrt: plain(0x9f),
  add: plain(0xa0),
  sub: plain(0xa1),
  mul: plain(0xa2),
  div: plain(0xa3),
  promote: plain(0xbb),
}

export const v128: {
  readonly store: Store
  readonly store32Lane: LaneStore
  readonly store64Lane: LaneStore
  readonly shuffle32: (lanes: readonly number[], ...operands: readonly Code[]) => Code
} & Readonly<Record<"and" | "or" | "xor" | "bitselect", Operator>> &
  Readonly<Record<"load" | "load16x4U" | "load8Splat" | "load16Splat" | "load32Splat" | "load32Zero", Load>> = {
  load: load(0),
  load16x4U: load(4),
  load8Splat: load(7),
  load16Splat: load(8),
  load32Splat: load(9),
  load32Zero: load(92),
  store: (address: Code, value: Code, offset = 0): Code => [...address, ...value, ...simd(11), ...memarg(0, offset)],
  store32Lane: (index: number, address: Code, value: Code): Code => [
    ...[...address, ...value, ...simd(90), ...memarg(0, 0)],
    index,
  ],
  store64Lane: (index: number, address: Code, value: Code): Code => [
    ...[...address, ...value, ...simd(91), ...memarg(0, 0)],
    index,
  ],
  and: vector(78),
  or: vector(80),
  xor: vector(81),
  /** Bits of the first where the third has 1, else of the second. */
  bitselect: vector(82),
  /** Lane l is lane lanes[l] of the eight 32-bit lanes of both operands. */
  shuffle32: (lanes: readonly number[], ...operands: readonly Code[]): Code => [
    ...[...operands.flat(), ...simd(13)],
    ...lanes.flatMap((l) => [4 * l, 4 * l + 1, 4 * l + 2, 4 * l + 3]),
  ],
}

export const i16x8: Readonly<Record<"extendLowI8U" | "narrowI32U", Operator>> = {
  extendLowI8U: vector(137),
  narrowI32U: vector(134),
}

export const i32x4: {
  readonly const: (...values: [number, number, number, number]) => Code
  readonly splatOf: (value: number) => Code
} & Readonly<
  Record<
    | "splat"
    | "eq"
    | "ne"
    | "gtS"
    | "geU"
    | "extendLowI16U"
    | "shl"
    | "shrU"
    | "add"
    | "sub"
    | "mul"
    | "minU"
    | "maxS"
    | "truncSat",
    Operator
  >
> &
  Readonly<Record<"extractLane", Lane>> = {
  const: (...values: [number, number, number, number]): Code => [...simd(12), ...bytesOf(Int32Array.of(...values))],
  splatOf: (value: number): Code => [...simd(12), ...bytesOf(Int32Array.of(value, value, value, value))],
  splat: vector(17),
  extractLane: lane(27),
  eq: vector(55),
  ne: vector(56),
  gtS: vector(59),
  geU: vector(64),
  extendLowI16U: vector(169),
  shl: vector(171),
  shrU: vector(173),
  add: vector(174),
  sub: vector(177),
  mul: vector(181),
  minU: vector(183),
  maxS: vector(184),
  truncSat: vector(248),
}

export const f32x4: { readonly splatOf: (value: number) => Code } & Readonly<
  Record<
    | "splat"
    | "eq"
    | "ne"
    | "lt"
    | "le"
    | "ge"
    | "demoteF64Zero"
    | "floor"
    | "nearest"
    | "abs"
    | "neg"
    | "sqrt"
    | "add"
    | "sub"
    | "mul"
    | "div"
    | "min"
    | "max"
    | "pmin"
    | "pmax"
    | "convertS"
    | "convertU"
    | "relaxedMadd",
    Operator
  >
> &
  Readonly<Record<"extractLane" | "replaceLane", Lane>> = {
  /** The constant in every lane. */
  splatOf: (value: number): Code => [...simd(12), ...bytesOf(Float32Array.of(value, value, value, value))],
  splat: vector(19),
  extractLane: lane(31),
  replaceLane: lane(32),
  eq: vector(65),
  ne: vector(66),
  lt: vector(67),
  le: vector(69),
  ge: vector(70),
  demoteF64Zero: vector(94),
  floor: vector(104),
  nearest: vector(106),
  abs: vector(224),
  neg: vector(225),
  sqrt: vector(227),
  add: vector(228),
  sub: vector(229),
  mul: vector(230),
  div: vector(231),
  min: vector(232),
  max: vector(233),
  /** The second where it is below (above) the first, else the first. */
  pmin: vector(234),
  pmax: vector(235),
  convertS: vector(250),
  convertU: vector(251),
  /** The product of the first two plus the third, rounded once or twice as the processor likes; only some engines have it. */
  relaxedMadd: vector(0x105),
}

export const f64x2: { readonly splatOf: (value: number) => Code } & Readonly<Record<"promoteLow" | "add", Operator>> &
  Readonly<Record<"extractLane", Lane>> = {
  splatOf: (value: number): Code => [...simd(12), ...bytesOf(Float64Array.of(value, value))],
  extractLane: lane(33),
  promoteLow: vector(95),
  add: vector(240),
}
