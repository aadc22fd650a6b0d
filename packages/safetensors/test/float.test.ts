/** Conversions against the definition of each format in plain arithmetic, over every code. */
import { describe, expect, it } from "vitest"
import { type Dtype, fromFloat32, toBfloat16, toFloat16, toFloat32, typedView } from "../src/index.ts"

/** Value of a code by the definition of the format; the sign of zero counts. */
function defined(code: number, exponent: number, mantissa: number, bias: number): number {
  const sign = code >> (exponent + mantissa) ? -1 : 1
  const e = (code >> mantissa) & (2 ** exponent - 1)
  const m = code & (2 ** mantissa - 1)
  return e === 0 ? sign * m * 2 ** (1 - bias - mantissa) : sign * (1 + m / 2 ** mantissa) * 2 ** (e - bias)
}
const all = (count: number): Uint16Array => Uint16Array.from({ length: count }, (_, i) => i)
const formats: [Dtype, number, number, number, (code: number) => number | undefined][] = [
  [
    "BF16",
    8,
    7,
    127,
    (c) => ((c & 0x7f80) === 0x7f80 ? (c & 0x7f ? Number.NaN : c >> 15 ? -Infinity : Infinity) : undefined),
  ],
  [
    "F16",
    5,
    10,
    15,
    (c) => ((c & 0x7c00) === 0x7c00 ? (c & 0x3ff ? Number.NaN : c >> 15 ? -Infinity : Infinity) : undefined),
  ],
  [
    "F8_E5M2",
    5,
    2,
    15,
    (c) => ((c & 0x7c) === 0x7c ? (c & 3 ? Number.NaN : c >> 7 ? -Infinity : Infinity) : undefined),
  ],
  ["F8_E4M3", 4, 3, 7, (c) => ((c & 0x7f) === 0x7f ? Number.NaN : undefined)],
  ["F8_E5M2FNUZ", 5, 2, 16, (c) => (c === 0x80 ? Number.NaN : undefined)],
  ["F8_E4M3FNUZ", 4, 3, 8, (c) => (c === 0x80 ? Number.NaN : undefined)],
]

describe("to float32", () => {
  it.each(formats)("%s, every code", (dtype, exponent, mantissa, bias, special) => {
    const codes = all(2 ** (1 + exponent + mantissa))
    const values = toFloat32(dtype, codes.length === 256 ? Uint8Array.from(codes) : codes)
    expect(values).toHaveLength(codes.length)
    for (const code of codes) {
      const wanted = special(code) ?? defined(code, exponent, mantissa, bias)
      if (!Object.is(values[code], wanted)) expect(`${code}: ${values[code]}`).toBe(`${code}: ${wanted}`)
    }
  })

  it("F8_E8M0, every code", () => {
    const values = toFloat32("F8_E8M0", Uint8Array.from(all(256)))
    for (let code = 0; code < 255; code++) expect(values[code]).toBe(2 ** (code - 127))
    expect(values[255]).toBeNaN()
  })

  it("the other dtypes", () => {
    expect([...toFloat32("F64", Float64Array.of(0.1, 1e300))]).toEqual([Math.fround(0.1), Infinity])
    expect([...toFloat32("I8", Int8Array.of(-128, 127))]).toEqual([-128, 127])
    expect([...toFloat32("U32", Uint32Array.of(4294967295))]).toEqual([4294967296])
    expect([...toFloat32("I64", BigInt64Array.of(-3n, 16777217n))]).toEqual([-3, 16777216])
    expect([...toFloat32("BOOL", Uint8Array.of(0, 1, 255))]).toEqual([0, 1, 1])
    const same = Float32Array.of(1)
    expect(toFloat32("F32", same)).toBe(same)
    const out = new Float32Array(1)
    expect(toFloat32("F32", same, out)).toBe(out)
    expect(out[0]).toBe(1)
  })

  it("refuses what has no such reading", () => {
    const error = expect.objectContaining({ code: "E_TENSOR_CONVERT" })
    expect(() => toFloat32("F4", new Uint8Array(2))).toThrow(error)
    expect(() => toFloat32("C64", new Float32Array(2))).toThrow(error)
    expect(() => toFloat32("BF16", new Uint8Array(2))).toThrow(error)
    expect(() => toFloat32("F32", new Uint8Array(4))).toThrow(error)
    expect(() => toFloat32("F8_E4M3", new Uint16Array(2))).toThrow(error)
    expect(() => toFloat32("BF16", new Uint16Array(2), new Float32Array(3))).toThrow(error)
    expect(() => toBfloat16(new Float32Array(2), new Uint16Array(1))).toThrow(error)
    expect(() => typedView("F32", new Uint8Array(5))).toThrow(error)
  })
})

describe.each([
  ["BF16", toBfloat16, 0x7f80, 2 ** 128],
  ["F16", toFloat16, 0x7c00, 65536],
] as const)("to %s", (dtype, narrow, infinity, beyond) => {
  it("gives every code back, quiet NaNs with their payload", () => {
    const codes = all(65536)
    const back = narrow(toFloat32(dtype, codes))
    for (const code of codes) {
      const wanted = (code & 0x7fff) > infinity ? code | (dtype === "F16" ? 0x200 : 0x40) : code
      if (back[code] !== wanted) expect(`${code}: ${back[code]}`).toBe(`${code}: ${wanted}`)
    }
  })

  it("rounds to the nearest, ties to even, between every two neighbours", () => {
    const values = toFloat32(dtype, all(infinity))
    // The step after the largest finite value counts as infinity.
    const grid = [...values, beyond]
    const inputs: number[] = []
    const wanted: number[] = []
    const bits = new Uint32Array(1)
    const one = new Float32Array(bits.buffer)
    for (let code = 0; code < infinity; code++) {
      const middle = ((grid[code] as number) + (grid[code + 1] as number)) / 2
      one[0] = middle
      expect(one[0]).toBe(middle)
      const position = bits[0] as number
      for (const [offset, result] of [
        [-1, code],
        [0, code + (code & 1)],
        [1, code + 1],
      ] as const) {
        bits[0] = position + offset
        inputs.push(one[0], -one[0])
        wanted.push(result, result | 0x8000)
      }
    }
    const got = narrow(Float32Array.from(inputs))
    expect(Buffer.from(got.buffer).equals(Buffer.from(Uint16Array.from(wanted).buffer))).toBe(true)
  })

  it("is what fromFloat32 does", () => {
    const values = Float32Array.of(1, -0, 3.4e38, Number.NaN)
    expect(fromFloat32(dtype, values)).toEqual(narrow(values))
  })
})
