/** What `npm run new:method` makes passes the conformance kit as it stands, and nothing that exists is written over. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"

const root = join(import.meta.dirname, "..")
// Inside the repository, where the packages are found.
const scratch = join(root, ".cache", "new-method-test")
const folder = join(scratch, "packages", "my-method")
const clear = (): void => rmSync(scratch, { recursive: true, force: true })
beforeAll(() => {
  clear()
  mkdirSync(scratch, { recursive: true })
  // Its own, without the projects and the browser of the repository's.
  writeFileSync(join(scratch, "vitest.config.mjs"), "export default {}\n")
})
afterAll(clear)

function make(name: string): { status: number | null; stdout: string; stderr: string } {
  const program = join(root, "scripts/new-method/main.ts")
  return spawnSync(process.execPath, ["--import", "tsx", program, name, scratch], { cwd: root, encoding: "utf8" })
}

it("makes a package that passes the kit at once", { timeout: 240_000 }, () => {
  const made = make("my-method")
  expect(made.status, made.stderr).toBe(0)
  expect(made.stdout).toContain("npx vitest run --project my-method")
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) => /\./.test(path))
  expect(files.sort()).toEqual(["README.md", "package.json", "src/index.ts", "test/conformance.test.ts"])
  for (const path of [...files.map((file) => join(folder, file)), join(scratch, ".changeset", "my-method.md")])
    expect(readFileSync(path, "utf8"), path).not.toMatch(/new-name|new_name|NEW_NAME|newName|NewName/)
  const vitest = join(root, "node_modules/vitest/vitest.mjs")
  const args = ["run", "--root", scratch, "--reporter", "json"]
  // Without a software GPU, which would take most of the time.
  const env = { ...process.env, PEFT_VULKAN: "", REQUIRE_BACKENDS: "" }
  const { stdout, stderr } = spawnSync(process.execPath, [vitest, ...args], { cwd: scratch, encoding: "utf8", env })
  const { numPassedTests = 0, numFailedTests = -1 } = JSON.parse(stdout.slice(stdout.indexOf("{")) || "{}")
  expect(numFailedTests, stdout + stderr).toBe(0)
  expect(numPassedTests).toBeGreaterThan(100)
})

it("refuses names that are none, and what is there", { timeout: 60_000 }, () => {
  for (const name of ["../evil", "backend-mine", "class"]) {
    const { status, stderr } = make(name)
    expect(status, name).toBe(1)
    expect(stderr).toMatch(/new:method: .*name/)
  }
  expect(existsSync(folder)).toBe(true)
  const again = make("my-method")
  expect(again.status).toBe(1)
  expect(again.stderr).toContain("is there already")
})
