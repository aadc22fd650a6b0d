/** Elements of any type, four at a time, to and from f32 in vectors. The roundings are those of half.ts. */
import type { DType } from "@peftjs/core"
import { once, type Scope } from "./wasm-module.ts"
import { type Code, f32x4, i16x8, i32, i32x4, v128 } from "./wasm-op.ts"

type Locals = Pick<Scope, "local">

/** Four neighbours as f32. */
export function loadFour(scope: Locals, dtype: DType, address: Code): Code {
  switch (dtype) {
    case "f32":
      return v128.load(address)
    case "bf16":
      return i32x4.shl(v128.load16x4U(address), i32.const(16))
    case "f16":
      return fromHalf(scope, v128.load16x4U(address))
    default:
      return numbers(dtype, fourWords(dtype, address))
  }
}

/** One element as f32 in every lane. */
export function loadSplat(scope: Locals, dtype: DType, address: Code): Code {
  switch (dtype) {
    case "f32":
      return v128.load32Splat(address)
    case "bf16":
      return i32x4.shl(v128.load16Splat(address), i32.const(16))
    case "f16":
      return fromHalf(scope, i32x4.shrU(v128.load16Splat(address), i32.const(16)))
    default:
      return numbers(dtype, splatWord(dtype, address))
  }
}

/** Four neighbours, or one in every lane, of u32 as uniform numbers in [0, 1). */
export function loadUniform(address: Code, splat: boolean): Code {
  const words = splat ? splatWord("u32", address) : fourWords("u32", address)
  return f32x4.mul(f32x4.convertS(i32x4.shrU(words, i32.const(8))), f32x4.splatOf(2 ** -24))
}

function fourWords(dtype: DType, address: Code): Code {
  return dtype === "u8" ? i32x4.extendLowI16U(i16x8.extendLowI8U(v128.load32Zero(address))) : v128.load(address)
}

function splatWord(dtype: DType, address: Code): Code {
  return dtype === "u8" ? i32x4.shrU(v128.load8Splat(address), i32.const(24)) : v128.load32Splat(address)
}

function numbers(dtype: DType, words: Code): Code {
  return dtype === "u32" ? f32x4.convertU(words) : f32x4.convertS(words)
}

/** Stores four f32, rounded to nearest even, or towards 0 for integers. */
export function storeFour(scope: Locals, dtype: "f32" | "f16" | "bf16" | "i32", address: Code, value: Code): Code {
  switch (dtype) {
    case "f32":
      return v128.store(address, value)
    case "i32":
      return v128.store(address, i32x4.truncSat(value))
    case "bf16":
      return once(scope, "v128", value, (x) => storeLow(address, toBf16(x)))
    case "f16":
      return once(scope, "v128", value, (x) => storeLow(address, toHalf(scope, x)))
  }
}

/** The low 16 bits of each lane, which are all it holds. */
function storeLow(address: Code, lanes: Code): Code {
  return v128.store64Lane(0, address, i16x8.narrowI32U(lanes, i32x4.splatOf(0)))
}

/** Patterns of f16 in the lanes; multiplying by 2^112 turns the exponent's bias, and subnormals, into f32's. */
function fromHalf(scope: Locals, patterns: Code): Code {
  return once(scope, "v128", patterns, (h) =>
    once(scope, "v128", i32x4.shl(v128.and(h, i32x4.splatOf(0x7fff)), i32.const(13)), (m) => {
      const finite = f32x4.mul(m, f32x4.splatOf(2 ** 112))
      const special = v128.and(i32x4.geU(m, i32x4.splatOf(0x0f800000)), i32x4.splatOf(0x7f800000))
      const sign = i32x4.shl(v128.and(h, i32x4.splatOf(0x8000)), i32.const(16))
      return v128.or(v128.or(finite, special), sign)
    }),
  )
}

function toBf16(x: Code): Code {
  const odd = v128.and(i32x4.shrU(x, i32.const(16)), i32x4.splatOf(1))
  const rounded = i32x4.shrU(i32x4.add(i32x4.add(x, i32x4.splatOf(0x7fff)), odd), i32.const(16))
  const nan = v128.or(i32x4.shrU(x, i32.const(16)), i32x4.splatOf(0x40))
  return v128.bitselect(nan, rounded, f32x4.ne(x, x))
}

function toHalf(scope: Locals, x: Code): Code {
  return once(scope, "v128", v128.and(x, i32x4.splatOf(0x7fffffff)), (rest) => {
    const odd = v128.and(i32x4.shrU(rest, i32.const(13)), i32x4.splatOf(1))
    const biased = i32x4.add(rest, i32x4.splatOf(0xfff - 0x38000000))
    const normal = i32x4.shrU(i32x4.add(biased, odd), i32.const(13))
    // Below the smallest normal f16, 2^-14: adding 2^-1 makes the f32 unit drop exactly the bits that a multiple of 2^-24 lacks.
    const tiny = i32x4.sub(f32x4.add(rest, f32x4.splatOf(0.5)), i32x4.splatOf(0x3f000000))
    const finite = v128.bitselect(tiny, normal, i32x4.gtS(i32x4.splatOf(0x38800000), rest))
    const bounded = v128.bitselect(finite, i32x4.splatOf(0x7c00), i32x4.gtS(i32x4.splatOf(0x47800000), rest))
    const known = v128.bitselect(i32x4.splatOf(0x7e00), bounded, f32x4.ne(x, x))
    return v128.or(known, v128.and(i32x4.shrU(x, i32.const(16)), i32x4.splatOf(0x8000)))
  })
}
