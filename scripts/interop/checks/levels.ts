/**
 * Each level of the CPU backend by itself, the BLAS of the environment among them, with 1, 2 and 4 threads: the repository's own tests that
 * compare with recorded figures (tests/levels), and those that skip a BLAS where none is named.
 */
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { type Context, finish } from "../programs.ts"
import { repository } from "../setup.ts"

const forced = ["reference", "wasm", "blas-1", "blas-2", "blas-4"]

export async function levels(context: Context): Promise<void> {
  for (const project of forced)
    await run(context, `recorded figures, ${project}`, [
      "--config",
      "tests/levels/vitest.config.ts",
      "--project",
      project,
    ])
  const skipping = ["packages/train/test/levels.test.ts", "packages/backend-cpu/test/gemm.test.ts"]
  await run(context, "threads and replicas", [...skipping, "--project", "train", "--project", "backend-cpu"], "blas")
}

/** Passes where every test has, and one of them speaks of `required`. */
async function run({ blas, folder, expect }: Context, name: string, args: string[], required = ""): Promise<void> {
  const report = join(folder, "report.json")
  const vitest = join(repository, "node_modules/.bin/vitest")
  const child = spawn(vitest, ["run", ...args, "--reporter=json", `--outputFile=${report}`], {
    cwd: repository,
    env: { ...process.env, PEFT_BLAS: blas },
  })
  const { code, stderr } = await finish(child)
  if (code !== 0) {
    expect(name, false, stderr.trim().split("\n").slice(-8).join(" | "))
    return
  }
  const { numPassedTests, testResults } = JSON.parse(readFileSync(report, "utf8")) as {
    numPassedTests: number
    testResults: { assertionResults: { fullName: string; status: string }[] }[]
  }
  const passed = testResults
    .flatMap(({ assertionResults }) => assertionResults)
    .filter(({ fullName, status }) => status === "passed" && fullName.includes(required))
  expect(name, numPassedTests > 0 && passed.length > 0, `${numPassedTests} tests`)
}
