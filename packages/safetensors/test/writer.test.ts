/** Writing: the reference library's bytes, and refusal of what would not be a file. */
import { readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import {
  bytes,
  dtypes,
  memoryFiles,
  openSafetensors,
  parseSafetensors,
  serializeSafetensors,
  type TensorInput,
  tensorBytes,
  writeSafetensors,
} from "../src/index.ts"

const fixtures = new URL("../../../fixtures/", import.meta.url)
/** Files as Python's safetensors wrote them; the corpus is made by hand. every-dtype also holds awkward names. */
const written = [
  new URL("fixtures/every-dtype.safetensors", import.meta.url),
  ...readdirSync(fixtures, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".safetensors") && !path.includes("corpus"))
    .map((path) => new URL(path, fixtures)),
]
const scrambled = <T>(entries: Iterable<T>): T[] =>
  [...entries].sort((a, b) => (String(a) < String(b) ? 1 : -1)).reverse()
const one = (tensor: unknown, name = "a"): [string, TensorInput][] => [[name, tensor as TensorInput]]

describe("bytes of the reference library", () => {
  it("has files to compare with", () => expect(written.length).toBeGreaterThan(5))

  it.each(written.map((url) => [url.pathname.split("/").slice(-3).join("/"), url] as const))("%s", async (_, url) => {
    const original = new Uint8Array(readFileSync(url))
    const { tensors, metadata } = parseSafetensors(original)
    expect(Buffer.from(serializeSafetensors(scrambled(tensors), metadata)).equals(original)).toBe(true)
    const folder = memoryFiles()
    const file = await openSafetensors(bytes("original", original))
    const lazy = [...file.tensors].map(
      ([name, { dtype, shape }]) => [name, { dtype, shape, data: async () => (await file.read(name)).data }] as const,
    )
    await writeSafetensors(folder, "copy.safetensors", lazy, file.metadata)
    expect(Buffer.from(folder.files.get("copy.safetensors") as Uint8Array).equals(original)).toBe(true)
  })
})

describe("round trip", () => {
  it.each(dtypes)("%s", async (dtype) => {
    const data = Uint8Array.from({ length: tensorBytes(dtype, [2, 4]) }, (_, i) => i * 37 + 1)
    const file = serializeSafetensors(one({ dtype, shape: [2, 4], data }))
    expect(file.length % 8).toBe(data.length % 8)
    const tensor = parseSafetensors(file).tensors.get("a")
    expect(tensor).toMatchObject({ dtype, shape: [2, 4] })
    // The view the reader gives is one the writer takes.
    expect(serializeSafetensors(one(tensor))).toEqual(file)
  })

  it("an empty file, empty tensors, views into larger buffers", () => {
    expect(serializeSafetensors([])).toEqual(new Uint8Array([8, 0, 0, 0, 0, 0, 0, 0, ...Buffer.from("{}      ")]))
    expect(
      parseSafetensors(serializeSafetensors(one({ dtype: "I8", shape: [0], data: new Int8Array() }))).tensors.size,
    ).toBe(1)
    const view = Float32Array.of(1, 2, 3, 4).subarray(1, 3)
    const { tensors } = parseSafetensors(serializeSafetensors(one({ dtype: "F32", shape: [2], data: view })))
    expect(tensors.get("a")?.data).toEqual(Float32Array.of(2, 3))
  })
})

describe("refuses", () => {
  const data = new Float32Array(2)
  const cases: [string, [string, TensorInput][], RegExp][] = [
    ["too little data", one({ dtype: "F32", shape: [3], data }), /takes 12 bytes; its data has 8/],
    [
      "data of another type",
      one({ dtype: "F32", shape: [2], data: new Int32Array(2) }),
      /Int32Array; allowed are Float32Array/,
    ],
    ["data that is none", one({ dtype: "F32", shape: [2], data: [1, 2] }), /its data a object/],
    ["an unknown dtype", one({ dtype: "f32", shape: [2], data }), /use one of BOOL/],
    ["a fractional shape", one({ dtype: "F32", shape: [0.5, 4], data }), /not a possible shape/],
    ["a negative shape", one({ dtype: "F32", shape: [-1, -2], data }), /not a possible shape/],
    ["half a byte", one({ dtype: "F4", shape: [3], data: new Uint8Array(2) }), /whole bytes/],
    ["the reserved name", one({ dtype: "F32", shape: [2], data }, "__metadata__"), /reserves/],
    ["half a surrogate", one({ dtype: "F32", shape: [2], data }, "\ud800"), /surrogate/],
    [
      "a name twice",
      [...one({ dtype: "F32", shape: [2], data }), ...one({ dtype: "F32", shape: [2], data })],
      /two tensors/,
    ],
  ]
  it.each(cases)("%s", async (_, tensors, message) => {
    const error = expect.objectContaining({ code: "E_TENSOR_WRITE", message: expect.stringMatching(message) })
    expect(() => serializeSafetensors(tensors)).toThrow(error)
    const folder = memoryFiles()
    await expect(writeSafetensors(folder, "x.safetensors", tensors)).rejects.toEqual(error)
    expect(folder.files.size).toBe(0)
  })

  it("metadata that is not text", () => {
    const error = expect.objectContaining({
      code: "E_TENSOR_WRITE",
      message: expect.stringMatching(/"step" is a number/),
    })
    expect(() => serializeSafetensors([], { step: 3 } as never)).toThrow(error)
  })

  it("pieces that are too few, too many, or of another type", async () => {
    const attempt = async (...pieces: ArrayBufferView[]): Promise<unknown> => {
      const folder = memoryFiles()
      async function* data(): AsyncGenerator<ArrayBufferView> {
        yield* pieces
      }
      const tensors = [["a", { dtype: "F32", shape: [3], data }]] as const
      const found = await writeSafetensors(folder, "a.safetensors", tensors).then(
        () => folder.files.get("a.safetensors"),
        (error: Error) => error.message,
      )
      if (typeof found === "string") expect(folder.files.size).toBe(0)
      return found
    }
    const whole = serializeSafetensors(one({ dtype: "F32", shape: [3], data: Float32Array.of(1, 2, 3) }))
    expect(await attempt(Float32Array.of(1), new Float32Array(0), Float32Array.of(2, 3))).toEqual(whole)
    expect(await attempt(Float32Array.of(1, 2))).toMatch(/takes 12 bytes; its data has 8.*E_TENSOR_WRITE/)
    expect(await attempt(Float32Array.of(1, 2), Float32Array.of(3, 4))).toMatch(/takes 12 bytes; its data has 16/)
    expect(await attempt(Int32Array.of(1, 2, 3))).toMatch(/its data a Int32Array.*E_TENSOR_WRITE/)
  })

  it("a size mismatch that shows only when the data is made", async () => {
    const folder = memoryFiles([["x.safetensors", Uint8Array.of(1)]])
    const tensors = [["a", { dtype: "F32", shape: [3], data: () => new Float32Array(2) }]] as const
    await expect(writeSafetensors(folder, "x.safetensors", tensors)).rejects.toMatchObject({ code: "E_TENSOR_WRITE" })
    expect(folder.files.get("x.safetensors")).toEqual(Uint8Array.of(1))
  })
})
