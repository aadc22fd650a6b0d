/**
 * A minimal encoder of WebAssembly modules: one imported memory, exported functions of i32 parameters without results.
 * Knows the binary format (WebAssembly core specification 2.0, chapter 5, and the relaxed-simd proposal), not what is computed.
 */

export type Code = readonly number[]

export interface WasmFunction {
  readonly name: string
  /** Number of i32 parameters; they are locals 0, 1, … */
  readonly params: number
  /** Further i32 locals, then v128 locals, numbered after the parameters. */
  readonly locals: { readonly i32: number; readonly v128: number }
  readonly body: Code
}

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

/** The instructions in use. A loop runs while the condition left on the stack by its body is not 0. */
export const op = {
  get: (local: number): Code => [0x20, ...u32(local)],
  set: (local: number): Code => [0x21, ...u32(local)],
  i32: (value: number): Code => [0x41, ...s32(value)],
  add: [0x6a] as Code,
  sub: [0x6b] as Code,
  and: [0x71] as Code,
  shl: [0x74] as Code,
  shrU: [0x76] as Code,
  loop: (body: Code): Code => [0x03, 0x40, ...body, 0x0d, 0, 0x0b],
  when: (body: Code, otherwise?: Code): Code => [0x04, 0x40, ...body, ...(otherwise ? [0x05, ...otherwise] : []), 0x0b],
  v128Load: (offset = 0): Code => [...simd(0), ...memarg(2, offset)],
  v128LoadSplat: (offset = 0): Code => [...simd(9), ...memarg(2, offset)],
  v128Store: (offset = 0): Code => [...simd(11), ...memarg(2, offset)],
  v128Zero: [...simd(12), ...new Array<number>(16).fill(0)] as Code,
  f32x4Add: simd(0xe4) as Code,
  f32x4Mul: simd(0xe6) as Code,
  f32x4RelaxedMadd: simd(0x105) as Code,
} as const

/** The bytes of a module that imports memory "m" of "e" and exports `functions`. */
export function wasmModule(functions: readonly WasmFunction[]): Uint8Array<ArrayBuffer> {
  const text = (s: string): number[] => list([...new TextEncoder().encode(s)])
  const list = (items: readonly number[]): number[] => [...u32(items.length), ...items]
  const vector = (items: readonly (readonly number[])[]): number[] => [...u32(items.length), ...items.flat()]
  const section = (id: number, body: readonly number[]): number[] => [id, ...list(body)]
  const i32 = 0x7f
  const v128 = 0x7b
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector(functions.map((f) => [0x60, ...list(new Array<number>(f.params).fill(i32)), 0]))),
    ...section(2, vector([[...text("e"), ...text("m"), 2, 0, 1]])),
    ...section(3, vector(functions.map((_, i) => u32(i)))),
    ...section(7, vector(functions.map((f, i) => [...text(f.name), 0, ...u32(i)]))),
    ...section(
      10,
      vector(
        functions.map((f) =>
          list([
            ...vector([
              [...u32(f.locals.i32), i32],
              [...u32(f.locals.v128), v128],
            ]),
            ...f.body,
            0x0b,
          ]),
        ),
      ),
    ),
  ])
}
