/** Where a TensorFlow is looked for and which is taken, on folders that are made up; what is said when there is none, or no GPU. */
import { closeSync, copyFileSync, mkdirSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { elfProblem } from "../src/node-elf.ts"
import { findTensorFlow, preparedForGpu } from "../src/node-find.ts"
import { noGpu } from "../src/node-gpu.ts"
import { openRuntime } from "../src/node-open.ts"

let root: string
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "peft-find-"))
  for (const [name, cuda] of [
    ["tensorflow-cpu-2", false],
    ["tensorflow-2", true],
  ] as const)
    write(`cache/tensorflow/${name}`, cuda, true)
  write("site", true, false)
  write("halfway/tensorflow/tensorflow-9", true, false)
  mkdirSync(join(root, "old/tensorflow/python"), { recursive: true })
  writeFileSync(join(root, "old/tensorflow/python/_pywrap_tensorflow_internal.so"), "")
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

function write(folder: string, cuda: boolean, ready: boolean): void {
  const home = join(root, folder)
  mkdirSync(join(home, "tensorflow/python/platform"), { recursive: true })
  for (const name of ["cc", "framework"]) writeFileSync(join(home, `tensorflow/libtensorflow_${name}.so.2`), "")
  const info = cuda
    ? "('cuda_version', '12.5.1'), ('cudnn_version', '9'), ('cuda_compute_capabilities', ['sm_60', 'compute_90'])"
    : "('is_cuda_build', False)"
  writeFileSync(join(home, "tensorflow/python/platform/build_info.py"), `build_info = OrderedDict([${info}])\n`)
  if (ready) writeFileSync(join(home, "READY"), "{}")
}

const thrown = (call: () => unknown): { code: string; message: string } => {
  try {
    call()
  } catch (error) {
    return error as { code: string; message: string }
  }
  throw new Error("nothing was thrown")
}

describe("finding", () => {
  const env = (more: NodeJS.ProcessEnv): NodeJS.ProcessEnv => ({ PATH: "", ...more })

  it("what was fetched: for a GPU the one with CUDA, for the CPU the other", () => {
    const there = env({ PEFTJS_CACHE: join(root, "cache") })
    const gpu = findTensorFlow({ device: "gpu", env: there })
    expect(gpu).toEqual({
      folder: join(root, "cache/tensorflow/tensorflow-2/tensorflow"),
      by: "peft setup cuda",
      cuda: { cuda: "12.5.1", cudnn: "9", capabilities: ["sm_60", "compute_90"] },
    })
    const cpu = findTensorFlow({ device: "cpu", env: there })
    expect([cpu.folder, cpu.cuda]).toEqual([join(root, "cache/tensorflow/tensorflow-cpu-2/tensorflow"), undefined])
    expect(preparedForGpu(there)).toBe(true)
  })

  it("a name wins: the folder, its parent, by variable or by option", () => {
    for (const name of ["site", "site/tensorflow"]) {
      const found = findTensorFlow({ device: "cpu", env: env({ PEFT_TENSORFLOW: join(root, name) }) })
      expect([found.folder, found.by]).toEqual([join(root, "site/tensorflow"), "PEFT_TENSORFLOW"])
    }
    const both = { device: "cpu", library: join(root, "site"), env: env({ PEFT_TENSORFLOW: "/nowhere" }) } as const
    expect(findTensorFlow(both).by).toBe("the option library")
  })

  it("names that hold none, and one that is too old", () => {
    for (const name of ["/no/such/place", root, process.execPath])
      expect(thrown(() => findTensorFlow({ device: "gpu", library: name, env: env({}) }))).toMatchObject({
        code: "E_TENSORFLOW",
        message: expect.stringContaining(name),
      })
    expect(thrown(() => findTensorFlow({ device: "gpu", library: join(root, "old"), env: env({}) }))).toMatchObject({
      code: "E_TENSORFLOW_VERSION",
      message: expect.stringMatching(/older than 2\.12; 2\.15 or later is needed/),
    })
  })

  it("a folder that was not finished does not count", () =>
    expect(preparedForGpu(env({ PEFTJS_CACHE: join(root, "halfway") }))).toBe(false))
})

describe("no GPU: the error says why", () => {
  const found = { folder: "/site/tensorflow", by: "python3" }
  const cuda = { cuda: "12.5.1", cudnn: "9", capabilities: ["sm_60"] }

  it("a build without CUDA", () =>
    expect(noGpu(found, 0, 0, {})).toMatchObject({
      code: "E_NO_DEVICE",
      message: expect.stringMatching(/\/site\/tensorflow.*without CUDA.*peft setup cuda.*never replaced by the CPU/),
    }))

  it("hidden by the variable", () => {
    for (const value of ["", "-1"])
      expect(noGpu({ ...found, cuda }, 0, 0, { CUDA_VISIBLE_DEVICES: value })).toMatchObject({
        code: "E_NO_DEVICE",
        message: expect.stringContaining(`CUDA_VISIBLE_DEVICES is "${value}"`),
      })
  })

  it("fewer than were asked for", () =>
    expect(noGpu({ ...found, cuda }, 2, 2, { CUDA_VISIBLE_DEVICES: "0,1" }).message).toMatch(
      /GPU 2 was asked for; TensorFlow has 2, counted from 0, and CUDA_VISIBLE_DEVICES is "0,1"/,
    ))

  it("CUDA's libraries are missing: each is named, with the folder", () =>
    expect(noGpu({ ...found, cuda: { ...cuda, cuda: "97.1", cudnn: "98" } }, 0, 0, {})).toMatchObject({
      code: "E_CUDA_LIBRARIES",
      message: expect.stringMatching(/libcudart\.so\.97, .*libcudnn\.so\.98 of CUDA 97\.1.*\/site\/nvidia/),
    }))
})

describe.skipIf(process.platform !== "linux")("a library that cannot be loaded", () => {
  it("is recognised before it is loaded, because that would end the process", () => {
    const path = join(root, "program")
    copyFileSync(process.execPath, path)
    expect(elfProblem(path)).toBeUndefined()
    const part = join(root, "part")
    writeFileSync(part, Buffer.from(headerOf(path)))
    expect(elfProblem(part)).toMatch(/cut short: 64 bytes of at least \d{6,}/)
    const other = Buffer.from(headerOf(path))
    other.writeUInt16LE(40, 18)
    writeFileSync(part, other)
    expect(elfProblem(part)).toMatch(/another processor/)
    writeFileSync(part, "hello")
    expect(elfProblem(part)).toMatch(/no shared library/)
  })

  it("has a code of its own", async () => {
    const library = join(root, "site")
    await expect(openRuntime({ device: "cpu", library })).rejects.toMatchObject({
      code: "E_TENSORFLOW_LOAD",
      message: expect.stringMatching(/libtensorflow_framework\.so\.2 cannot be loaded: it is no shared library/),
    })
    await expect(openRuntime({ device: "cpu", library, runtime: "addon" })).rejects.toMatchObject({
      code: "E_TENSORFLOW_ADDON",
      message: expect.stringContaining(dirname(join(library, "tensorflow", "x"))),
    })
  })

  it("devices and runtimes that do not exist", async () => {
    for (const device of ["cpu:1", "gpu:", "tpu"])
      await expect(openRuntime({ device: device as "cpu" })).rejects.toMatchObject({ code: "E_OPTION" })
    await expect(openRuntime({ runtime: "native" as "capi" })).rejects.toThrow(/"capi" and "addon" exist/)
  })
})

function headerOf(path: string): Uint8Array {
  const header = new Uint8Array(64)
  const file = openSync(path, "r")
  readSync(file, header)
  closeSync(file)
  return header
}
