/**
 * Elements in 4-byte words: how each type is loaded as f32 and how words of 16-bit floats are made.
 * The conversions are integer arithmetic, exact, subnormals included: shader-f16 is optional, and unpack2x16float may flush.
 * Every function is written for one element or for four (`Width`), so that kernels can work on vec4. Knows no kernel.
 */
import { bytesPerElement, type DType } from "@peftjs/core"
import type { ElementType } from "./gpu.ts"

/** How many elements a statement works on. */
export type Width = 1 | 4

/** WGSL types of `width` elements. */
export function typesOf(width: Width): { readonly F: string; readonly U: string; readonly I: string } {
  return width === 1 ? { F: "f32", U: "u32", I: "i32" } : { F: "vec4f", U: "vec4u", I: "vec4i" }
}

export const elementsPerWord = (dtype: DType): number => 4 / bytesPerElement[dtype]

/** The array element a kernel binds a buffer with, if it takes `width` elements at a time. */
export function storageOf(dtype: DType, width: Width = 1): ElementType {
  if (width === 1) return dtype === "f32" || dtype === "i32" ? dtype : "u32"
  if (dtype === "f32") return "vec4<f32>"
  if (bytesPerElement[dtype] === 4) return "vec4<u32>"
  return dtype === "u8" ? "u32" : "vec2<u32>"
}

/** One operand of a kernel: its variable, its type and how many elements are loaded at a time. */
export interface Loaded {
  readonly name: string
  readonly dtype: DType
  readonly width?: Width
}

/** For each operand a function `load_<name>(i)`: elements i (or 4i…4i+3) in f32; and what these functions need. */
export function loaders(operands: readonly Loaded[]): string {
  const halves = new Set(operands.filter((x) => x.dtype === "f16").map((x) => x.width ?? 1))
  return [...[...halves].map(decodeF16), ...operands.map(loader)].join("\n")
}

function loader({ name, dtype, width = 1 }: Loaded): string {
  const { F, U } = typesOf(width)
  const bits = rawBits(name, dtype, width)
  const value = {
    f32: `${name}[i]`,
    i32: width === 1 ? `f32(${name}[i])` : `vec4f(bitcast<vec4i>(${name}[i]))`,
    u32: `${F}(${name}[i])`,
    u8: `${F}(${bits})`,
    bf16: `bitcast<${F}>((${bits}) << ${U}(16u))`,
    f16: `f16_value${width}(${bits})`,
  }[dtype]
  return `fn load_${name}(i: u32) -> ${F} { return ${value}; }`
}

/** The elements of a packed type as integers. */
function rawBits(name: string, dtype: DType, width: Width): string {
  if (dtype === "u8")
    return width === 1
      ? `(${name}[i >> 2u] >> ((i & 3u) * 8u)) & 0xffu`
      : `(vec4u(${name}[i]) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(0xffu)`
  return width === 1
    ? `(${name}[i >> 1u] >> ((i & 1u) * 16u)) & 0xffffu`
    : `(${name}[i].xxyy >> vec4u(0u, 16u, 0u, 16u)) & vec4u(0xffffu)`
}

function decodeF16(width: Width): string {
  const { F, U } = typesOf(width)
  return `fn f16_value${width}(h: ${U}) -> ${F} {
  let exponent = h & ${U}(0x7c00u);
  // The exponent's bias grows by 112; that of infinities and NaN by twice as much, up to 255.
  let bias = select(${U}(0x38000000u), ${U}(0x70000000u), exponent == ${U}(0x7c00u));
  let normal = ((h & ${U}(0x7fffu)) << ${U}(13u)) + bias;
  let small = bitcast<${U}>(${F}(h & ${U}(0x3ffu)) * ${F}(5.9604644775390625e-8));
  return bitcast<${F}>(select(normal, small, exponent == ${U}(0u)) | ((h & ${U}(0x8000u)) << ${U}(16u)));
}`
}

/** A function `half_bits(x)`: f32 rounded to the nearest 16-bit float, ties to even; NaN stays NaN. */
export function encoder(dtype: "f16" | "bf16", width: Width): string {
  const { F, U } = typesOf(width)
  const start = `fn half_bits(x: ${F}) -> ${U} {
  let u = bitcast<${U}>(x);
  let a = u & ${U}(0x7fffffffu);`
  if (dtype === "bf16")
    return `${start}
  let rounded = (u + ${U}(0x7fffu) + ((u >> ${U}(16u)) & ${U}(1u))) >> ${U}(16u);
  return select(rounded, (u >> ${U}(16u)) | ${U}(0x40u), a > ${U}(0x7f800000u));
}`
  return `${start}
  let rebiased = a - ${U}(0x38000000u);
  let normal = (rebiased + ${U}(0xfffu) + ((rebiased >> ${U}(13u)) & ${U}(1u))) >> ${U}(13u);
  // Below 2^-14: the significand, shifted to units of 2^-24. A shift of 25 leaves nothing.
  let shift = clamp(${U}(126u) - (a >> ${U}(23u)), ${U}(14u), ${U}(25u));
  let significand = (a & ${U}(0x7fffffu)) | ${U}(0x800000u);
  let odd = (significand >> shift) & ${U}(1u);
  let small = (significand + (${U}(1u) << (shift - ${U}(1u))) - ${U}(1u) + odd) >> shift;
  var bits = select(small, normal, a >= ${U}(0x38800000u));
  bits = select(bits, ${U}(0x7c00u), a >= ${U}(0x477ff000u));
  bits = select(bits, ${U}(0x7e00u), a > ${U}(0x7f800000u));
  return bits | ((u >> ${U}(16u)) & ${U}(0x8000u));
}`
}
