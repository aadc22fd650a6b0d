/** The reference library's recorded verdict on every file of the corpus, through both ways of reading. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { bytes, openSafetensors, parseSafetensors, SafetensorsError, type TensorData } from "../src/index.ts"

type Verdict = {
  accept: boolean
  required: boolean
  keys?: string[]
  metadata?: Record<string, string> | null
  deserialize: { tensors?: [string, string, number[], string][] }
}
const folder = new URL("../../../fixtures/safetensors/", import.meta.url)
const expected: Record<string, Verdict> = JSON.parse(readFileSync(new URL("expected.json", folder), "utf8")).files

/** Files on which both verdicts are allowed and ours differs from the reference, which takes serde's other spellings. */
const stricter = ["entry-is-list"]

const load = (name: string): Uint8Array => new Uint8Array(readFileSync(new URL(`corpus/${name}.safetensors`, folder)))
const hex = ({ data }: TensorData): string => Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("hex")

describe("corpus", () => {
  it("is complete", () => expect(Object.keys(expected)).toHaveLength(68))

  it.each(Object.entries(expected))("%s", async (name, verdict) => {
    const data = load(name)
    const accept = verdict.accept && !stricter.includes(name)
    if (verdict.required) expect(accept).toBe(verdict.accept)
    if (!accept) {
      const code = expect.stringMatching(/^E_SAFETENSORS_(HEADER|LAYOUT|SIZE)$/)
      expect(() => parseSafetensors(data, name)).toThrow(SafetensorsError)
      await expect(openSafetensors(bytes(name, data))).rejects.toMatchObject({
        code,
        message: expect.stringContaining(name),
      })
      return
    }
    const file = await openSafetensors(bytes(name, data))
    const parsed = parseSafetensors(data)
    expect([...file.tensors.keys()].sort()).toEqual([...(verdict.keys ?? [])].sort())
    expect(file.metadata).toEqual(verdict.metadata ?? {})
    expect(parsed.metadata).toEqual(file.metadata)
    expect(parsed.tensors.size).toBe(file.tensors.size)
    for (const [key, dtype, shape, content] of verdict.deserialize.tensors ?? []) {
      for (const tensor of [await file.read(key), parsed.tensors.get(key)]) {
        expect(tensor).toMatchObject({ dtype, shape })
        expect(hex(tensor as TensorData)).toBe(content)
      }
    }
  })
})
