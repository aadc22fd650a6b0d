/** Lazy reading, rows, alignment, shards, and sources that do not keep their word. */
import { readdirSync, readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import {
  type ByteSource,
  bytes,
  memoryFiles,
  openModel,
  openSafetensors,
  parseSafetensors,
  serializeSafetensors,
  toFloat32,
  writeText,
} from "../src/index.ts"

const matrix = serializeSafetensors(
  [
    ["m", { dtype: "F32", shape: [4, 3], data: Float32Array.from({ length: 12 }, (_, i) => i) }],
    ["q", { dtype: "F4", shape: [3, 2], data: Uint8Array.of(1, 2, 3) }],
    ["odd", { dtype: "F4", shape: [2, 3], data: Uint8Array.of(1, 2, 3) }],
    ["s", { dtype: "F16", shape: [], data: Uint16Array.of(0x3c00) }],
  ],
  { format: "pt" },
)

function counting(source: ByteSource): ByteSource & { ranges: [number, number][] } {
  const ranges: [number, number][] = []
  const read: ByteSource["read"] = (start, end) => {
    ranges.push([start, end])
    return source.read(start, end)
  }
  return { ...source, ranges, read }
}

describe("openSafetensors", () => {
  it("reads the header, then only what is asked for", async () => {
    const names = Array.from({ length: 2000 }, (_, i) => `layer.${i}`)
    const big = serializeSafetensors(
      names.map((name) => [name, { dtype: "F32", shape: [100], data: new Float32Array(100) }]),
    )
    const source = counting(bytes("big", big))
    const file = await openSafetensors(source)
    const header = 8 + new DataView(big.buffer).getUint32(0, true)
    expect(source.ranges).toEqual([
      [0, 65_536],
      [8, header],
    ])
    await file.read("layer.5")
    const info = file.tensors.get("layer.5")
    expect(info).toMatchObject({ dtype: "F32", shape: [100], byteLength: 400, file: "big" })
    expect(source.ranges.at(-1)).toEqual([info?.start, info?.end])
  })

  it("reads rows", async () => {
    const source = counting(bytes("m", matrix))
    const file = await openSafetensors(source)
    expect(await file.readRows("m", 1, 3)).toEqual({
      dtype: "F32",
      shape: [2, 3],
      data: Float32Array.of(3, 4, 5, 6, 7, 8),
    })
    const [start, end] = source.ranges.at(-1) ?? [0, 0]
    expect(end - start).toBe(24)
    expect((await file.readRows("m", 4, 4)).shape).toEqual([0, 3])
    expect((await file.readRows("q", 1, 2)).data).toEqual(Uint8Array.of(2))
    for (const [name, first, last] of [
      ["m", 3, 5],
      ["m", -1, 1],
      ["m", 2, 1],
      ["m", 0.5, 1],
      ["s", 0, 1],
      ["odd", 1, 2],
    ] as const)
      await expect(file.readRows(name, first, last), `${name} ${first} ${last}`).rejects.toMatchObject({
        code: "E_TENSOR_ROWS",
      })
  })

  it("names what is missing", async () => {
    const file = await openSafetensors(bytes("m.safetensors", matrix))
    const error = {
      code: "E_TENSOR_NOT_FOUND",
      message: expect.stringMatching(/m\.safetensors has no tensor "x" among its 4/),
    }
    await expect(file.read("x")).rejects.toMatchObject(error)
  })

  it("refuses every shorter version of a file", async () => {
    for (let length = 0; length < matrix.length; length++)
      await expect(openSafetensors(bytes("cut", matrix.subarray(0, length)))).rejects.toMatchObject({
        code: expect.stringMatching(/^E_SAFETENSORS_/),
      })
  })

  it("notices a source that delivers too little", async () => {
    const good = bytes("flaky", matrix)
    let short = false
    const file = await openSafetensors({ ...good, read: (start, end) => good.read(start, short ? end - 1 : end) })
    short = true
    await expect(file.read("m")).rejects.toMatchObject({ code: "E_READ" })
  })
})

describe("views", () => {
  it("share memory when aligned and copy when not, with equal values", () => {
    const aligned = parseSafetensors(matrix).tensors.get("m")?.data
    expect(aligned?.buffer).toBe(matrix.buffer)
    for (let shift = 1; shift < 8; shift++) {
      const moved = new Uint8Array(matrix.length + shift)
      moved.set(matrix, shift)
      const data = parseSafetensors(moved.subarray(shift)).tensors.get("m")?.data
      expect(data).toEqual(aligned)
      expect(data?.buffer === moved.buffer).toBe(shift % 4 === 0)
    }
  })
})

describe("openModel", () => {
  const folder = new URL("../../../fixtures/safetensors/sharded/", import.meta.url)
  const sharded = () =>
    memoryFiles(readdirSync(folder).map((name) => [name, new Uint8Array(readFileSync(new URL(name, folder)))]))
  const index = "model.safetensors.index.json"

  it("merges shards", async () => {
    const model = await openModel(sharded())
    expect(model.tensors.size).toBe(12)
    expect(model.metadata).toEqual({ format: "pt" })
    expect(model.tensors.get("lm_head.weight")?.file).toContain("model-00004-of-00004.safetensors")
    let total = 0
    for (const [name, info] of model.tensors) {
      const tensor = await model.read(name)
      expect(tensor).toMatchObject({ dtype: "F32", shape: info.shape })
      expect(toFloat32(tensor.dtype, tensor.data).some((value) => value !== 0)).toBe(true)
      total += tensor.data.byteLength
    }
    expect(total).toBe(47_488)
    const whole = (await model.read("lm_head.weight")).data.subarray(
      0,
      2 * (model.tensors.get("lm_head.weight")?.shape[1] ?? 0),
    )
    expect((await model.readRows("lm_head.weight", 0, 2)).data).toEqual(whole)
    await expect(model.read("nothing")).rejects.toMatchObject({ code: "E_TENSOR_NOT_FOUND" })
  })

  it("takes a single file first, under any name", async () => {
    const files = sharded()
    await files.write("model.safetensors", [matrix])
    expect((await openModel(files)).tensors.has("m")).toBe(true)
    await files.write("adapter_model.safetensors", [matrix])
    expect((await openModel(files, { single: "adapter_model.safetensors" })).tensors.size).toBe(4)
  })

  it("refuses an incomplete folder", async () => {
    await expect(openModel(memoryFiles())).rejects.toMatchObject({
      code: "E_FILE_NOT_FOUND",
      message: expect.stringMatching(/neither/),
    })
    const files = [...sharded().files].filter(([name]) => name !== "model-00002-of-00004.safetensors")
    const missing = expect.stringContaining("model-00002-of-00004.safetensors")
    await expect(openModel(memoryFiles(files))).rejects.toMatchObject({ code: "E_SHARD_MISSING", message: missing })
  })

  it("refuses a malformed or lying index", async () => {
    const files = sharded()
    const map = { "lm_head.weight": "model-00001-of-00004.safetensors" }
    for (const text of [
      "{",
      "null",
      "[]",
      "{}",
      `{"weight_map":{"a":1}}`,
      `{"weight_map":null}`,
      JSON.stringify({ weight_map: map }),
    ]) {
      await writeText(files, index, text)
      await expect(openModel(files), text).rejects.toMatchObject({ code: "E_SAFETENSORS_INDEX" })
    }
    await writeText(files, index, `{"weight_map":{"a":"../secret.safetensors"}}`)
    await expect(openModel(files)).rejects.toMatchObject({ code: "E_PATH" })
  })
})
