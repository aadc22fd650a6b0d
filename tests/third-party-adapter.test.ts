/** examples/third-party-adapter in a clone, where packages run from source; scripts/check-stranger.ts installs it beside packed ones. */
import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { methodFactory } from "../packages/cli/src/method.ts"

const example = join(import.meta.dirname, "..", "examples", "third-party-adapter")
const folder = mkdtempSync(join(tmpdir(), "peftjs-method-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it("its own tests pass: the kit, and PEFT's fixtures", { timeout: 120_000 }, () => {
  const args = ["--import", "tsx", "--test", "--test-reporter", "tap", "test/conformance.test.js", "test/peft.test.js"]
  const { status, stdout } = spawnSync(process.execPath, args, { cwd: example, encoding: "utf8" })
  expect(status, stdout).toBe(0)
  expect(Number(/^# pass (\d+)$/m.exec(stdout)?.[1])).toBeGreaterThan(60)
})

describe("a folder as a method", () => {
  it("is what its package.json exports", async () => {
    expect((await methodFactory(example)).format?.peftType).toBe("IA3")
  })

  const method = "export default () => ({ name: 'found' })"
  it.each([
    ["exports as conditions", { exports: { ".": { types: "./x.d.ts", import: "./it.js" } } }, "it.js"],
    ["main", { main: "lib/main.js" }, "lib/main.js"],
    ["neither", {}, "index.js"],
    ["no package.json", undefined, "index.js"],
  ])("%s", async (name, manifest, file) => {
    const place = join(folder, name.replaceAll(/\W/g, "-"))
    mkdirSync(join(place, "lib"), { recursive: true })
    if (manifest) writeFileSync(join(place, "package.json"), JSON.stringify({ type: "module", ...manifest }))
    writeFileSync(join(place, file), manifest ? method : "module.exports = () => ({ name: 'found' })")
    expect((await methodFactory(place))().name).toBe("found")
  })

  it("is refused with a code when there is nothing in it or package.json is broken", async () => {
    const empty = join(folder, "empty")
    mkdirSync(empty)
    await expect(methodFactory(empty)).rejects.toThrow(/E_METHOD/)
    writeFileSync(join(empty, "package.json"), "{")
    await expect(methodFactory(empty)).rejects.toThrow(/cannot be read.*E_METHOD/)
    await expect(methodFactory(join(folder, "nowhere"))).rejects.toThrow(/is there such a file.*E_METHOD/)
  })
})
