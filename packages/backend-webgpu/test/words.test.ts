/** Elements of 16 and 8 bits: every pattern is loaded exactly and stored again, and everything between two patterns goes to the nearer one. */
import { constant, type DType, input } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { createMap } from "../src/map.ts"
import { absent, openGpu } from "./gpu.ts"

const float = (bits: number): number => new Float32Array(Uint32Array.of(bits).buffer)[0] as number

function numberOf(pattern: number, dtype: "f16" | "bf16"): number {
  if (dtype === "bf16") return float(pattern * 65536)
  const [sign, exponent, fraction] = [pattern >> 15 ? -1 : 1, (pattern >> 10) & 31, pattern & 1023]
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
}

describe.skipIf(absent !== undefined)("words", () => {
  for (const dtype of ["f16", "bf16"] as const) {
    it(`every ${dtype}, four at a time and one at a time`, async () => {
      const gpu = await openGpu()
      const map = createMap(gpu)
      // bf16's subnormals are f32's, which a device may take for 0.
      const patterns = Uint16Array.from({ length: 65536 }, (_, i) => i).filter(
        (i) => dtype === "f16" || (i & 0x7f80) !== 0 || (i & 0x7fff) === 0,
      )
      const x = gpu.upload(patterns, dtype)
      const n = patterns.length
      // Along an axis of 1 operand and odd length nothing can be taken by four.
      const odd = gpu.upload(new Float32Array(3), "f32")
      const wide = map(input(0), [{ buffer: x, shape: [n] }], [], [n], "f32")
      const thin = map(
        { op: "add", args: [input(0), input(1)] },
        [
          { buffer: x, shape: [n, 1] },
          { buffer: odd, shape: [3] },
        ],
        [],
        [n, 3],
        "f32",
      )
      const back = map(input(0), [{ buffer: wide, shape: [n] }], [], [n], dtype)
      const backThin = map(
        { op: "add", args: [input(0), input(1)] },
        [
          { buffer: thin, shape: [n, 3] },
          { buffer: odd, shape: [3] },
        ],
        [],
        [n, 3],
        dtype,
      )
      const [a, b, c, d] = [await gpu.read(wide), await gpu.read(thin), await gpu.read(back), await gpu.read(backThin)]
      const wrong: string[] = []
      for (const [i, pattern] of patterns.entries()) {
        const value = numberOf(pattern, dtype)
        const same = (found: number): boolean => Object.is(found, value)
        if (!same(a[i] as number)) wrong.push(`${pattern} loads as ${a[i]}`)
        // x + 0 is not -0.
        if (!same(b[3 * i + 2] as number) && value !== 0) wrong.push(`${pattern} loads as ${b[3 * i + 2]} alone`)
        const kept = (found: number): boolean =>
          found === pattern || (Number.isNaN(value) && Number.isNaN(numberOf(found, dtype)))
        if (!kept(c[i] as number)) wrong.push(`${pattern} is stored as ${c[i]}`)
        if (!kept(d[3 * i + 1] as number) && value !== 0) wrong.push(`${pattern} is stored as ${d[3 * i + 1]} alone`)
      }
      expect(wrong.slice(0, 5)).toEqual([])
      for (const buffer of [x, odd, wide, thin, back, backThin]) gpu.free(buffer)
    })

    it(`halfway between two numbers of ${dtype} the even one is taken`, async () => {
      const gpu = await openGpu()
      const first = dtype === "f16" ? 0 : 0x80
      const patterns = Array.from({ length: (dtype === "f16" ? 0x7bff : 0x7f7f) - first }, (_, i) => i + first)
      const halfway = patterns.flatMap((p) => {
        const middle = (numberOf(p, dtype) + numberOf(p + 1, dtype)) / 2
        const [bits] = new Uint32Array(Float32Array.of(middle).buffer) as unknown as [number]
        return [middle, bits - 1 < 0x800000 ? 0 : float(bits - 1), float(bits + 1)]
      })
      const x = gpu.upload(Float32Array.from(halfway), "f32")
      const y = createMap(gpu)(input(0), [{ buffer: x, shape: [halfway.length] }], [], [halfway.length], dtype)
      const found = await gpu.read(y)
      const wrong = patterns.filter((p, i) => {
        const below = halfway[3 * i + 1] === 0 ? 0 : p
        return found[3 * i] !== p + (p & 1) || found[3 * i + 1] !== below || found[3 * i + 2] !== p + 1
      })
      expect(wrong.slice(0, 5)).toEqual([])
      for (const buffer of [x, y]) gpu.free(buffer)
    })
  }

  it("bytes and integers, and constants that are no finite numbers", async () => {
    const gpu = await openGpu()
    const map = createMap(gpu)
    for (const [dtype, data] of [
      ["u8", Uint8Array.from({ length: 256 }, (_, i) => i)],
      ["i32", Int32Array.of(-(2 ** 31), -5, 0, 7, 2 ** 24, 2 ** 30)],
      ["u32", Uint32Array.of(0, 3, 2 ** 31, 2 ** 32 - 256)],
    ] as const) {
      const x = gpu.upload(data, dtype as DType)
      const y = map(input(0), [{ buffer: x, shape: [data.length] }], [], [data.length], "f32")
      expect([...(await gpu.read(y))]).toEqual([...data])
    }
    for (const value of [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 1e39, 2 ** -126, 0.1]) {
      const y = map(constant(value), [], [], [2], "f32")
      expect([...(await gpu.read(y))]).toEqual([Math.fround(value), Math.fround(value)])
      const scaled = map({ op: "scalar", index: 0 }, [], [value], [2], "bf16")
      const found = numberOf((await gpu.read(scaled))[1] as number, "bf16")
      if (Number.isFinite(Math.fround(value))) expect(found).toBeCloseTo(value, 3)
      else expect(found).toBe(Math.fround(value))
    }
  })
})
