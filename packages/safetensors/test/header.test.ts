/** Header rules the corpus has no file for, and noise: whatever the bytes, the answer is a tensor list or a coded error. */
import { describe, expect, it } from "vitest"
import { parseSafetensors, SafetensorsError, serializeSafetensors } from "../src/index.ts"

function file(header: string | Uint8Array, dataBytes = 0): Uint8Array {
  const json = typeof header === "string" ? new TextEncoder().encode(header) : header
  const data = new Uint8Array(8 + json.length + dataBytes)
  new DataView(data.buffer).setBigUint64(0, BigInt(json.length), true)
  data.set(json, 8)
  return data
}
const tensor = (shape: string, offsets = "0,4", dtype = "F32"): string =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":[${offsets}]}`
const refused = (header: string | Uint8Array, dataBytes: number, code: string, text: RegExp): void => {
  expect(() => parseSafetensors(file(header, dataBytes))).toThrow(
    expect.objectContaining({ code, message: expect.stringMatching(text) }),
  )
}

describe("header", () => {
  it("accepts what the reference accepts", () => {
    expect(
      parseSafetensors(file(`{"a":${tensor("[ 1 ]")}, "z":${tensor("[0,9007199254740991,8]", "4,4")}}`, 4)).tensors
        .size,
    ).toBe(2)
    expect(parseSafetensors(file(`{"__proto__":${tensor("[1]")}}`, 4)).tensors.has("__proto__")).toBe(true)
    expect(parseSafetensors(file(`{"e.5":${tensor("[]")},"__metadata__":{"1.5":"-2e3"}}`, 4)).metadata).toEqual({
      "1.5": "-2e3",
    })
    expect(parseSafetensors(file(`{"q":${tensor("[4]", "0,3", "F6_E2M3")}}`, 3)).tensors.get("q")?.shape).toEqual([4])
  })

  it("refuses what JSON.parse would hide", () => {
    refused(`{"a":${tensor("[1]")},"a":${tensor("[1]")}}`, 4, "E_SAFETENSORS_HEADER", /"a" twice/)
    refused(`{"a":${tensor("[1]")},"\\u0061" :${tensor("[1]")}}`, 4, "E_SAFETENSORS_HEADER", /twice/)
    for (const shape of ["[1.0]", "[1e0]", "[10E-1]", "[-0]"])
      refused(`{"a":${tensor(shape)}}`, 4, "E_SAFETENSORS_HEADER", /integer|sizes/)
    refused(`{"\\ud800":${tensor("[1]")}}`, 4, "E_SAFETENSORS_HEADER", /surrogate/)
    refused(`\ufeff{"a":${tensor("[1]")}}`, 4, "E_SAFETENSORS_HEADER", /JSON/)
    refused(
      `{"a":${tensor("[1]").replace("{", `{"x":${"[".repeat(200)}${"]".repeat(200)},`)}}`,
      4,
      "E_SAFETENSORS_HEADER",
      /nesting/,
    )
  })

  it("names the tensor and the numbers", () => {
    refused(`{"a":${tensor("[2]")}}`, 4, "E_SAFETENSORS_LAYOUT", /"a": F32 \[2\] takes 8 bytes.*hold 4/)
    refused(`{"a":${tensor("[1]")}}`, 3, "E_SAFETENSORS_SIZE", /cut off/)
    refused(`{"a":${tensor("[1]", "0,4", "F33")}}`, 4, "E_SAFETENSORS_HEADER", /"F33", known are BOOL/)
    refused(`{"a":${tensor("[4294967296,4294967296]")}}`, 4, "E_SAFETENSORS_LAYOUT", /overflows/)
    refused(`{"a":${tensor("[9007199254740992]")}}`, 4, "E_SAFETENSORS_HEADER", /sizes/)
  })

  it("throws errors that core's isPeftError knows", () => {
    const error = new SafetensorsError("E_READ", "no", { cause: 1 })
    expect((error as unknown as Record<symbol, unknown>)[Symbol.for("peftjs.error")]).toBe(true)
    expect(error).toMatchObject({ code: "E_READ", message: "no (E_READ)", cause: 1 })
  })

  it("survives noise", () => {
    let state = 12345
    const random = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
    const good = serializeSafetensors(
      [
        ["layer.weight", { dtype: "BF16", shape: [2, 3], data: new Uint16Array(6) }],
        ["é\n", { dtype: "F32", shape: [], data: new Float32Array(1) }],
      ],
      { format: "pt" },
    )
    let accepted = 0
    let refusals = 0
    for (let round = 0; round < 20_000; round++) {
      const data = good.slice(0, random(8) === 0 ? random(good.length + 1) : good.length)
      for (let edits = random(4); edits > 0 && data.length > 0; edits--) {
        const at = random(4) === 0 ? random(data.length) : 8 + random(Math.max(data.length - 8, 1))
        data[at % data.length] =
          random(3) === 0 ? random(256) : (`{}[]",:.-e0123456789\\u`.charCodeAt(random(22)) as number)
      }
      try {
        parseSafetensors(data)
        accepted++
      } catch (error) {
        if (!(error instanceof SafetensorsError)) throw error
        refusals++
      }
    }
    expect(accepted).toBeGreaterThan(1000)
    expect(refusals).toBeGreaterThan(1000)
  })
})
