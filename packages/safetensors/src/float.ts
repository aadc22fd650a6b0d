/**
 * Element conversions between stored dtypes and float32. Loading a model runs these over every weight, so 8- and
 * 16-bit floats go through bit arithmetic or tables built on first use. Knows nothing of files or shapes.
 */
import { arrayName, arrayTag, type Dtype, type TensorArray } from "./dtype.ts"
import { fail } from "./error.ts"

/** Sizes of a small float: 1 sign bit, `exponent` bits with `bias`, `mantissa` bits. */
interface SmallFloat {
  readonly exponent: number
  readonly mantissa: number
  readonly bias: number
  /** ieee: top exponent is inf and NaN. fn: only the all-ones code is NaN. fnuz: only the code of -0 is NaN. */
  readonly special: "ieee" | "fn" | "fnuz"
}

const smallFloats = {
  F16: { exponent: 5, mantissa: 10, bias: 15, special: "ieee" },
  F8_E5M2: { exponent: 5, mantissa: 2, bias: 15, special: "ieee" },
  F8_E4M3: { exponent: 4, mantissa: 3, bias: 7, special: "fn" },
  F8_E5M2FNUZ: { exponent: 5, mantissa: 2, bias: 16, special: "fnuz" },
  F8_E4M3FNUZ: { exponent: 4, mantissa: 3, bias: 8, special: "fnuz" },
} as const satisfies Partial<Record<Dtype, SmallFloat>>

/** float32 bits of one code. NaN payloads are kept, so that a quiet NaN survives widening and narrowing. */
function widenedBits(code: number, { exponent, mantissa, bias, special }: SmallFloat): number {
  const sign = (code >>> (exponent + mantissa)) << 31
  const e = (code >>> mantissa) & ((1 << exponent) - 1)
  const m = code & ((1 << mantissa) - 1)
  const top = e === (1 << exponent) - 1
  if (special === "ieee" && top) return sign | 0x7f800000 | (m << (23 - mantissa))
  if (special === "fn" && top && m === (1 << mantissa) - 1) return sign | 0x7fc00000
  if (special === "fnuz" && sign !== 0 && e === 0 && m === 0) return 0x7fc00000
  if (e !== 0) return sign | ((e - bias + 127) << 23) | (m << (23 - mantissa))
  if (m === 0) return sign
  // Subnormal m · 2^(1 - bias - mantissa): shift the leading bit up to the implicit one.
  const shift = Math.clz32(m) - 31 + mantissa
  return sign | ((1 - bias - shift + 127) << 23) | ((m << (23 - mantissa + shift)) & 0x7fffff)
}

const tables = new Map<Dtype, Uint32Array>()

/** float32 bits of every code of an 8-bit float or of F16, or undefined for other dtypes. */
function widening(dtype: Dtype): Uint32Array | undefined {
  let table = tables.get(dtype)
  if (table === undefined) {
    if (dtype === "F8_E8M0") {
      // Powers of two: code - 127 is the exponent, 0 is the subnormal 2^-127, 255 is NaN.
      table = Uint32Array.from({ length: 256 }, (_, code) =>
        code === 0 ? 0x400000 : code === 255 ? 0x7fc00000 : code << 23,
      )
    } else if (dtype in smallFloats) {
      const format: SmallFloat = smallFloats[dtype as keyof typeof smallFloats]
      const codes = 1 << (1 + format.exponent + format.mantissa)
      table = Uint32Array.from({ length: codes }, (_, code) => widenedBits(code, format))
    } else return undefined
    tables.set(dtype, table)
  }
  return table
}

function bitsOf(array: Float32Array): Uint32Array {
  return new Uint32Array(array.buffer, array.byteOffset, array.length)
}

/**
 * Elements of a tensor as float32. F32 is returned as it is, without a copy, unless `out` is given.
 * F64, I32 and U32 are rounded to the nearest float32, I64 and U64 by way of float64; BOOL gives 0 or 1; the others are
 * exact.
 *
 * @param data elements as `typedView` shows them
 * @param out as long as `data`; receives the values and is returned
 * @throws E_TENSOR_CONVERT for F4, F6 and C64, which have no such reading, for a view that is not the dtype's, and for
 * an `out` of another length
 */
export function toFloat32(dtype: Dtype, data: TensorArray, out?: Float32Array): Float32Array {
  if (dtype === "F4" || dtype === "F6_E2M3" || dtype === "F6_E3M2" || dtype === "C64")
    fail("E_TENSOR_CONVERT", `${dtype} cannot be read as float32; take the stored bytes and decode them yourself`)
  if (arrayTag(data) !== arrayName(dtype))
    fail("E_TENSOR_CONVERT", `${dtype} was given as ${arrayTag(data)}; use typedView(dtype, bytes)`)
  if (dtype === "F32" && out === undefined) return data as Float32Array
  const result = out ?? new Float32Array(data.length)
  if (result.length !== data.length)
    fail("E_TENSOR_CONVERT", `out has ${result.length} elements for ${data.length} elements of ${dtype}`)
  const table = widening(dtype)
  if (table !== undefined) {
    const [bits, codes] = [bitsOf(result), data as Uint8Array | Uint16Array]
    for (let i = 0; i < bits.length; i++) bits[i] = table[codes[i] as number] as number
  } else if (dtype === "BF16") {
    const [bits, codes] = [bitsOf(result), data as Uint16Array]
    for (let i = 0; i < bits.length; i++) bits[i] = (codes[i] as number) << 16
  } else if (dtype === "BOOL") {
    for (let i = 0; i < result.length; i++) result[i] = data[i] ? 1 : 0
  } else if (dtype === "I64" || dtype === "U64") {
    for (let i = 0; i < result.length; i++) result[i] = Number(data[i])
  } else result.set(data as Float32Array)
  return result
}

/**
 * float32 as BF16 codes, rounded to nearest, ties to even; too large becomes infinite, NaN stays NaN.
 *
 * @param out as long as `values`; receives the codes and is returned. E_TENSOR_CONVERT if it has another length.
 */
export function toBfloat16(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  checkLength(values, out)
  const bits = bitsOf(values)
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i] as number
    // A NaN keeps its upper payload and is made quiet, lest rounding turn it into infinity.
    out[i] = (x & 0x7fffffff) > 0x7f800000 ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16
  }
  return out
}

/**
 * float32 as IEEE half precision codes, rounded to nearest, ties to even, with subnormals; 65520 and above becomes
 * infinite, NaN stays NaN.
 *
 * @param out as long as `values`; receives the codes and is returned. E_TENSOR_CONVERT if it has another length.
 */
export function toFloat16(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  checkLength(values, out)
  const bits = bitsOf(values)
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i] as number
    const size = x & 0x7fffffff
    let code: number
    if (size > 0x7f800000) code = 0x7e00 | ((size >>> 13) & 0x3ff)
    else if (size >= 0x47800000) code = 0x7c00
    else if (size >= 0x38800000) code = (size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13
    else code = roundHalfEven(Math.abs(values[i] as number) * 0x1000000)
    out[i] = ((x >>> 16) & 0x8000) | code
  }
  return out
}

/** Rounds `units` (0 to 1024, multiples of the smallest half, exact in a double): at 2^52 a double has no fraction left. */
function roundHalfEven(units: number): number {
  return units + 0x10000000000000 - 0x10000000000000
}

/** float32 values in the stored form of a float dtype, ready to be written; F32 is returned as it is. Rounding as above. */
export function fromFloat32(dtype: "F32" | "BF16" | "F16", values: Float32Array): Float32Array | Uint16Array {
  return dtype === "F32" ? values : dtype === "BF16" ? toBfloat16(values) : toFloat16(values)
}

function checkLength(values: Float32Array, out: Uint16Array): void {
  if (values.length !== out.length)
    fail("E_TENSOR_CONVERT", `out has ${out.length} elements for ${values.length} values`)
}
