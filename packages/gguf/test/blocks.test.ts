/** Packing to the last bit: blocks as gguf-py 0.19.0 makes them of the same values. */
import { cpu } from "@peftjs/backend-cpu"
import { free, isPeftError } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { quantiser, unpackBlocks } from "../src/blocks.ts"
import { q4_0, q4_1, q8_0 } from "../src/index.ts"
import { type Packed, valuesOf } from "./pack.ts"

/** Three blocks: two of pseudo-random multiples of 1/512, one of zeros but for -1.5 and 1.5. */
function sample(): Float32Array {
  let state = 12345
  const next = (): number => {
    state = Number((BigInt(state) * 1103515245n + 12345n) % 2147483648n)
    return (((state >> 16) % 4001) - 2000) / 512
  }
  const values = Float32Array.from({ length: 96 }, next).fill(0, 64)
  values[70] = -1.5
  values[71] = 1.5
  return values
}

/** gguf.quantize(sample, kind) of gguf-py 0.19.0. */
const golden: Readonly<Record<Packed, string>> = {
  Q4_0: "a73796d8782e14c0ef00b1a1dc17772477519f37ce6049d3142815fe980f4d939cb0af680032888888888888808f8888888888888888",
  Q4_1: "b337a7c396d8782e14c0ef00b1a1dc177724675106389fc3be6048c3142814ed980f3d939cb09f58663200be888888888888808f8888888888888888",
  Q8_0: "b627ddff0761ba817186998f44eaf0c4f8960f4eea9e8b455f8433264e8eeaa0e8d6ae2766810fb7c0ffc960ff7757b147857cff3ce7bf528fa090681786b91518351ddb0c22000000000000817f000000000000000000000000000000000000000000000000",
}
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, "hex"))
const formats = { Q4_0: q4_0(), Q4_1: q4_1(), Q8_0: q8_0() }
const blocks = async function* (values: Float32Array, size: number): AsyncGenerator<Float32Array> {
  for (let at = 0; at < values.length; at += size) yield values.slice(at, at + size)
}

describe.each(["Q4_0", "Q4_1", "Q8_0"] as const)("%s", (kind) => {
  it("packs as gguf-py does, whatever pieces the values come in", () => {
    for (const size of [96, 7, 1]) {
      const made = quantiser(kind, 96)
      for (let at = 0; at < 96; at += size) made.push(sample().subarray(at, at + size))
      expect(made.finish()).toEqual(unpackBlocks(kind, bytesOf(golden[kind])))
    }
  })
  it("is on a device what its bytes stand for", async () => {
    const backend = await cpu()
    const weight = await formats[kind].encode(backend, [3, 32], blocks(sample(), 32))
    const rows = weight.rows({ start: 0, end: 3 })
    expect(await rows.data()).toEqual(valuesOf(kind, bytesOf(golden[kind])))
    expect(weight.format).toBe(kind.toLowerCase())
    expect(weight.stored).toBeUndefined()
    free(rows)
    weight.free()
  })
  it("takes matrices whose rows are no whole blocks, and a short last block", async () => {
    const values = sample().subarray(0, 40)
    const weight = await formats[kind].encode(await cpu(), [4, 10], blocks(values, 10))
    const rows = (await weight.rows({ start: 0, end: 4 }).data()) as Float32Array
    const first = valuesOf(kind, bytesOf(golden[kind])).subarray(0, 32)
    expect(rows.subarray(0, 32)).toEqual(first)
    rows.forEach((x, i) => {
      expect(Math.abs(x - (values[i] as number))).toBeLessThan(kind === "Q8_0" ? 0.02 : 0.3)
    })
  })
  it("has zeros for zeros", () => {
    const made = quantiser(kind, 32)
    made.push(new Float32Array(32))
    const { codes, scales } = made.finish()
    expect(Math.abs(scales[0] as number)).toBe(0)
    expect(new Set(codes)).toEqual(new Set([kind === "Q4_0" ? 0x88 : 0]))
  })
  it.each([
    ["NaN", Number.NaN],
    ["Inf", Number.POSITIVE_INFINITY],
    ["what float16 cannot scale", 3e38],
  ])("refuses %s", (_, wrong) => {
    const values = new Float32Array(32).fill(1)
    values[5] = wrong
    expect(codeOf(() => quantiser(kind, 32).push(values))).toBe("E_NOT_FINITE")
  })
  it("refuses too many values and too few", () => {
    expect(codeOf(() => quantiser(kind, 32).push(new Float32Array(33)))).toBe("E_SHAPE")
    expect(codeOf(() => quantiser(kind, 32).finish())).toBe("E_SHAPE")
  })
})

function codeOf(body: () => unknown): string | undefined {
  try {
    body()
  } catch (error) {
    return isPeftError(error) ? error.code : String(error)
  }
  return undefined
}
