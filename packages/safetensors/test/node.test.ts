/** Files on disk: ranges, atomic writes, and what can be wrong with a path. */
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, utimes, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import {
  checkPath,
  memoryFiles,
  openModel,
  openSafetensors,
  readText,
  writeSafetensors,
  writeText,
} from "../src/index.ts"
import { nodeFile, nodeFiles } from "../src/node.ts"

let dir: string
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "safetensors-"))
})
afterEach(async () => {
  await rm(dir, { recursive: true })
})
const tensors = [["a", { dtype: "F32", shape: [3], data: Float32Array.of(1, 2, 3) }]] as const

describe("nodeFiles", () => {
  it("writes, lists and reads back", async () => {
    const files = nodeFiles(dir)
    await writeSafetensors(files, "deep/er/model.safetensors", tensors, { format: "pt" })
    await writeText(files, "config.json", `{"ä":1}`)
    await symlink(join(dir, "config.json"), join(dir, "link.json"))
    expect(await files.list()).toEqual(["config.json", "deep/er/model.safetensors", "link.json"])
    expect(await readText(files, "link.json")).toBe(`{"ä":1}`)
    expect(await files.has("config.json")).toBe(true)
    expect(await files.has("deep")).toBe(false)
    const model = await openModel(nodeFiles(join(dir, "deep/er")))
    expect((await model.readRows("a", 1, 3)).data).toEqual(Float32Array.of(2, 3))
  })

  it("reads into memory that is given, if it is large enough, shared memory too", async () => {
    const files = nodeFiles(dir)
    await writeSafetensors(files, "model.safetensors", tensors)
    const model = await openModel(files)
    for (const buffer of [new ArrayBuffer(16), new SharedArrayBuffer(16)]) {
      const { data } = await model.readRows("a", 1, 3, new Uint8Array(buffer))
      expect(data).toEqual(Float32Array.of(2, 3))
      expect(data.buffer).toBe(buffer)
    }
    const small = new Uint8Array(4)
    expect((await model.read("a", small)).data).toEqual(Float32Array.of(1, 2, 3))
    expect([...small]).toEqual([0, 0, 0, 0])
  })

  it("leaves the old file and no other when the data fails", async () => {
    const files = nodeFiles(dir)
    await writeText(files, "x", "old")
    const failure = new Error("out of ideas")
    async function* chunks(): AsyncGenerator<Uint8Array> {
      yield new Uint8Array(100_000)
      expect(await readdir(dir)).toHaveLength(2)
      throw failure
    }
    await expect(files.write("x", chunks())).rejects.toBe(failure)
    expect(await readdir(dir)).toEqual(["x"])
    expect(await readText(files, "x")).toBe("old")
  })

  it("shows readers the old file until the new one is whole", async () => {
    const files = nodeFiles(dir)
    await writeText(files, "x", "old")
    async function* chunks(): AsyncGenerator<Uint8Array> {
      yield Buffer.from("ne")
      expect(await readText(files, "x")).toBe("old")
      yield Buffer.from("w")
    }
    await files.write("x", chunks())
    expect(await readFile(join(dir, "x"), "utf8")).toBe("new")
  })

  it("keeps concurrent writers apart", async () => {
    const files = nodeFiles(dir)
    await Promise.all(Array.from({ length: 20 }, (_, i) => writeText(files, "x", String(i).repeat(1000))))
    expect(await readText(files, "x")).toMatch(/^(\d+)\1{999}$/)
    expect(await readdir(dir)).toEqual(["x"])
  })

  it("passes a failing disk on as E_WRITE with its cause, and cleans up", async () => {
    await mkdir(join(dir, "taken/x"), { recursive: true })
    await expect(writeText(nodeFiles(dir), "taken", "text")).rejects.toMatchObject({
      code: "E_WRITE",
      cause: { code: expect.stringMatching(/EISDIR|EEXIST|ENOTEMPTY|EPERM/) },
    })
    expect(await readdir(dir)).toEqual(["taken"])
  })

  it.skipIf(process.platform === "win32" || process.getuid?.() === 0)("says when permission is missing", async () => {
    await chmod(dir, 0o500)
    await expect(writeText(nodeFiles(dir), "x", "text")).rejects.toMatchObject({
      code: "E_WRITE",
      message: expect.stringMatching(/permission/),
    })
    await chmod(dir, 0o700)
  })

  it("names what is missing or of the wrong kind", async () => {
    await writeFile(join(dir, "file"), "text")
    await mkdir(join(dir, "folder"))
    const missing = expect.stringContaining(join(dir, "gone"))
    await expect(nodeFiles(dir).open("gone")).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND", message: missing })
    await expect(nodeFiles(join(dir, "gone")).open("x")).rejects.toMatchObject({
      code: "E_FILE_NOT_FOUND",
      message: missing,
    })
    await expect(nodeFile(join(dir, "gone"))).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND", message: missing })
    await expect(nodeFiles(join(dir, "file")).open("x")).rejects.toMatchObject({ code: "E_NOT_A_DIRECTORY" })
    await expect(nodeFiles(join(dir, "file")).list()).rejects.toMatchObject({ code: "E_NOT_A_DIRECTORY" })
    await expect(writeText(nodeFiles(join(dir, "file")), "x", "")).rejects.toMatchObject({ code: "E_NOT_A_DIRECTORY" })
    await expect(nodeFiles(dir).open("folder")).rejects.toMatchObject({ code: "E_NOT_A_FILE" })
    await expect(nodeFiles(dir).open("../x")).rejects.toMatchObject({ code: "E_PATH" })
  })

  it("refuses a file that changed since it was opened", async () => {
    const files = nodeFiles(dir)
    await writeSafetensors(files, "m", tensors)
    const model = await openSafetensors(await files.open("m"))
    await model.read("a")
    await utimes(join(dir, "m"), 1, 1)
    await expect(model.read("a")).rejects.toMatchObject({ code: "E_READ", message: expect.stringMatching(/changed/) })
    await rm(join(dir, "m"))
    await expect(model.read("a")).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND" })
  })
})

describe("paths", () => {
  it("stay inside the folder", () => {
    for (const path of ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\\b", "C:a", "a\0b"])
      expect(() => checkPath(path), path).toThrow(expect.objectContaining({ code: "E_PATH" }))
    for (const path of ["a", "a/b.c", "..a", ".hidden", "ä b"]) expect(checkPath(path)).toBe(path)
  })
})

describe("memoryFiles", () => {
  it("behaves like a folder", async () => {
    const files = memoryFiles([["b/c", Uint8Array.of(1)]])
    const chunk = Uint8Array.of(1)
    await files.write(
      "a",
      (function* () {
        yield chunk
        chunk[0] = 2
        yield chunk
      })(),
    )
    expect(files.files.get("a")).toEqual(Uint8Array.of(1, 2))
    expect(await files.list()).toEqual(["a", "b/c"])
    await files.write("bc", [chunk])
    await files.remove("b")
    await files.remove("not there")
    expect(await files.list()).toEqual(["a", "bc"])
    await files.remove("bc")
    expect(await files.list()).toEqual(["a"])
    await expect(files.open("x")).rejects.toMatchObject({
      code: "E_FILE_NOT_FOUND",
      message: expect.stringMatching(/x is not in memory/),
    })
  })
})
