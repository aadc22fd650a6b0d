/** The programs of examples/ run as they stand and do what their README says. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"

const examples = join(import.meta.dirname, "..", "examples")
const folder = mkdtempSync(join(tmpdir(), "peftjs-examples-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

it("01-first-run lowers the loss on held-out questions and saves an adapter", { timeout: 120_000 }, () => {
  const args = ["--import", "tsx", join(examples, "01-first-run", "main.ts"), join(folder, "adapter")]
  const env = { ...process.env, PEFT_BLAS: "off" }
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: examples, encoding: "utf8", env })
  expect(status, stderr).toBe(0)
  const [before = 0, after = 0] = [...stdout.matchAll(/held-out loss \w+: +([\d.]+)/g)].map(([, loss]) => Number(loss))
  expect(before).toBeGreaterThan(1)
  expect(after).toBeGreaterThan(0)
  expect(after).toBeLessThan(before / 2)
  for (const name of ["adapter_config.json", "adapter_model.safetensors"])
    expect(existsSync(join(folder, "adapter", name))).toBe(true)
})
