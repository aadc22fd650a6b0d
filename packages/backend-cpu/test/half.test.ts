import { expect, test } from "vitest"
import { f16Table, toBf16, toF16, widen } from "../src/half.ts"
import { bf16Value, f16Value } from "./helpers.ts"

test("every f16 pattern has its value, and rounds back to itself", () => {
  const table = f16Table()
  for (let i = 0; i < 65536; i++) {
    const value = f16Value(i)
    expect(Object.is(table[i], Number.isNaN(value) ? Number.NaN : Math.fround(value))).toBe(true)
    if (!Number.isNaN(value)) expect(toF16(value)).toBe(i)
  }
})

test("every bf16 pattern that is a number rounds to itself", () => {
  for (let i = 0; i < 65536; i++) {
    const value = bf16Value(i)
    if (Number.isNaN(value)) expect(Number.isNaN(bf16Value(toBf16(value)))).toBe(true)
    else expect(toBf16(value)).toBe(i)
  }
})

test("halfway between two patterns the even one is taken, beside it the nearer one", () => {
  for (const [round, value, last] of [
    [toF16, f16Value, 0x7bff],
    [toBf16, bf16Value, 0x7f7f],
  ] as const) {
    for (let i = 1; i < last; i += 7) {
      const low = value(i)
      const high = value(i + 1)
      const middle = (low + high) / 2
      if (Math.fround(middle) !== middle) continue
      expect(round(middle)).toBe(i % 2 === 0 ? i : i + 1)
      expect(round(-middle)).toBe((i % 2 === 0 ? i : i + 1) + 0x8000)
      const step = Math.max(Math.abs(middle) * 2 ** -23, 2 ** -149)
      expect(round(middle + step)).toBe(i + 1)
      expect(round(middle - step)).toBe(i)
    }
  }
})

test("what is too large becomes infinity, NaN stays NaN, zeros keep their sign", () => {
  expect(toF16(65519)).toBe(0x7bff)
  expect(toF16(65520)).toBe(0x7c00)
  expect(toF16(-1e30)).toBe(0xfc00)
  expect(toBf16(3.4e38)).toBe(0x7f80)
  expect(toF16(-0)).toBe(0x8000)
  expect(toBf16(-0)).toBe(0x8000)
  expect(f16Value(toF16(Number.NaN))).toBeNaN()
  expect(bf16Value(toBf16(Number.NaN))).toBeNaN()
  expect(toF16(Infinity)).toBe(0x7c00)
})

test("widening starts anywhere, aligned or not", () => {
  const source = Uint16Array.from({ length: 40 }, (_, i) => 0x3f80 + i * 3)
  for (const start of [0, 1, 2, 5]) {
    for (const n of [0, 1, 2, 7, 30]) {
      const out = new Float32Array(n)
      widen(source, "bf16", start, n, out)
      expect([...out]).toEqual([...source.subarray(start, start + n)].map(bf16Value))
      widen(source, "f16", start, n, out)
      expect([...out]).toEqual([...source.subarray(start, start + n)].map(f16Value))
    }
  }
})
