import { execFile } from "node:child_process"
import { mkdtempSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { describe, expect, it } from "vitest"
import { probe } from "../src/node.ts"
import { useVulkan } from "../src/node-vulkan.ts"
import { absent } from "./runtime-kit.ts"

const folder = (): string => mkdtempSync(join(tmpdir(), "peftjs-vulkan-"))

/** What a fresh Node says that has no environment but this one. */
async function fresh(script: string, env: Record<string, string>): Promise<string> {
  const source = `import { probe, webgpu } from ${JSON.stringify(join(import.meta.dirname, "../src/node.ts"))}\n${script}`
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "--eval", source],
    { env: { PATH: process.env.PATH ?? "", HOME: process.env.HOME ?? "", ...env }, timeout: 25_000 },
  )
  return stdout
}

describe("drivers in Node", () => {
  it("says E_NO_DEVICE for a folder without a driver, and which was looked at", () => {
    const empty = folder()
    expect(() => useVulkan(empty)).toThrow(new RegExp(`${empty} has no Vulkan driver.*E_NO_DEVICE`))
    expect(() => useVulkan(join(empty, "nothing"))).toThrow(/E_NO_DEVICE/)
  })

  it.runIf(process.platform === "linux")("takes every manifest of a folder", () => {
    const before = process.env.VK_DRIVER_FILES
    const drivers = folder()
    for (const name of ["lvp_icd.x86_64.json", "other_icd.json", "notes.txt"]) writeFileSync(join(drivers, name), "{}")
    useVulkan(drivers)
    expect(process.env.VK_DRIVER_FILES?.split(":").sort()).toEqual([
      join(drivers, "lvp_icd.x86_64.json"),
      join(drivers, "other_icd.json"),
    ])
    if (before === undefined) delete process.env.VK_DRIVER_FILES
    else process.env.VK_DRIVER_FILES = before
  })

  it("reports what is missing", async () => {
    const said = await fresh("console.log(JSON.stringify(await probe()))", { PEFT_VULKAN: folder() })
    const { adapters, missing } = JSON.parse(said)
    if (process.platform !== "linux") return
    expect(adapters).toEqual([])
    expect(missing).toMatch(/has no Vulkan driver.*PEFT_VULKAN/)
  })

  const there = absent === undefined ? it : it.skip

  there(`lists adapters with features and limits${absent ? ` (${absent})` : ""}`, async () => {
    const { adapters, missing } = await probe()
    expect(missing).toBeUndefined()
    expect(adapters.length).toBeGreaterThan(0)
    expect(new Set(adapters.map((adapter) => JSON.stringify(adapter))).size).toBe(adapters.length)
    expect(adapters[0]?.limits.maxBufferSize).toBeGreaterThanOrEqual(256 * 2 ** 20)
    expect(adapters[0]?.description).not.toBe("")
  })

  there(
    `lets a program end with a device open and puts nothing among the globals${absent ? ` (${absent})` : ""}`,
    async () => {
      const script = `const before = Object.keys(globalThis).length
const backend = await webgpu()
const x = backend.upload(new Float32Array([1, 2]), "f32")
await backend.read(x)
globalThis.gc()
console.log(Object.keys(globalThis).length - before, "GPUBufferUsage" in globalThis, (await backend.read(x))[1])`
      const env = { ...(process.env as Record<string, string>), NODE_OPTIONS: "--expose-gc" }
      expect((await fresh(script, env)).trim()).toBe("0 false 2")
    },
  )
})
