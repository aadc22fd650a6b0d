/**
 * `npm run check`: everything that is not a test, in order, each step a command of its own. All steps run even when one fails.
 * Options: names of steps to run alone, as in `npm run check -- types browser`.
 */
import { spawnSync } from "node:child_process"
import { performance } from "node:perf_hooks"

const steps: Readonly<Record<string, readonly string[]>> = {
  types: ["tsc", "--noEmit"],
  lint: ["biome", "check", "--error-on-warnings", "."],
  arrows: ["vitest", "run", "--project", "tests", "tests/arrows.test.ts"],
  browser: ["tsx", "scripts/check-browser.ts"],
  build: ["tsdown"],
  packages: ["tsx", "scripts/check-packages.ts"],
  consumer: ["tsx", "scripts/check-consumer.ts"],
  stranger: ["tsx", "scripts/check-stranger.ts"],
}

const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !(name in steps))
if (unknown.length > 0) throw new Error(`no step ${unknown.join(", ")}; there are ${Object.keys(steps).join(", ")}`)

let failed = 0
let passed = 0
for (const [name, [command = "", ...args]] of Object.entries(steps)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const start = performance.now()
  // Output is shown only where it is needed: when the step failed.
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 27 })
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  if (status === 0) passed++
  else {
    failed++
    console.log(`${stdout}${stderr}`)
  }
  console.log(`${status === 0 ? "ok    " : "FAILED"} ${name} (${seconds} s)`)
}
console.log(`check: ${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
