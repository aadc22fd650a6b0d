/** Random numbers: the known answers of the Random123 distribution, and the distributions drawn from them. */
import { describe, expect, it } from "vitest"
import { keyOf, normals, randomWords, threefry, uniforms } from "../src/index.ts"

describe("Threefry-2x32, 20 rounds", () => {
  // kat_vectors of Random123 1.14: counter, key, result.
  const known = [
    [
      [0, 0],
      [0, 0],
      [0x6b200159, 0x99ba4efe],
    ],
    [
      [0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x1cb996fc, 0xbb002be7],
    ],
    [
      [0x243f6a88, 0x85a308d3],
      [0x13198a2e, 0x03707344],
      [0xc4923a9c, 0x483df7a0],
    ],
  ] as const
  for (const [counter, key, result] of known) {
    it(`counter ${counter.map((w) => w.toString(16))}, key ${key.map((w) => w.toString(16))}`, () => {
      expect(threefry(key, counter)).toEqual(result)
    })
  }

  it("word 2i and 2i + 1 are the block of counter i", () => {
    const words = randomWords([5, 6], 5)
    for (const i of [0, 1, 2])
      expect([...words.slice(2 * i, 2 * i + 2)]).toEqual(threefry([5, 6], [i, 0]).slice(0, 5 - 2 * i))
  })
})

describe("keys", () => {
  it("differ with every part, its order and its kind", () => {
    const keys = [
      keyOf(1),
      keyOf(2),
      keyOf(1, 2),
      keyOf(1, "2"),
      keyOf(1, 2, 3),
      keyOf(1, 3, 2),
      keyOf(1, "ab"),
      keyOf(1, "ba"),
      keyOf(2 ** 32 + 1),
    ]
    expect(new Set(keys.map(String)).size).toBe(keys.length)
    expect(keyOf(7, "a", 1)).toEqual(keyOf(7, "a", 1))
  })
})

describe("distributions", () => {
  const n = 20_000
  const mean = (x: Float32Array): number => x.reduce((a, b) => a + b, 0) / x.length

  it("uniforms stay in [low, high) and have its mean and variance", () => {
    const x = uniforms([1, 2], n, -1, 3)
    expect(Math.min(...x)).toBeGreaterThanOrEqual(-1)
    expect(Math.max(...x)).toBeLessThan(3)
    expect(mean(x)).toBeCloseTo(1, 1)
    expect(mean(x.map((v) => (v - 1) ** 2))).toBeCloseTo(16 / 12, 1)
  })

  it("normals have mean 0, the variance asked for and normal tails", () => {
    const x = normals([1, 2], n + 1, 2)
    expect(x.length).toBe(n + 1)
    expect(x.every(Number.isFinite)).toBe(true)
    expect(Math.abs(mean(x))).toBeLessThan(0.05)
    expect(mean(x.map((v) => v * v))).toBeCloseTo(4, 0)
    const beyond = x.filter((v) => Math.abs(v) > 4).length / x.length
    expect(beyond).toBeGreaterThan(0.04)
    expect(beyond).toBeLessThan(0.051)
  })
})
