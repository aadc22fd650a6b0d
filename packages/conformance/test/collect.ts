/** A test runner that runs nothing: it collects the checks a kit declares, so that a test can run one and see it fail. */
import type { Runner } from "../src/index.ts"

/** The checks by name, each made a promise. */
export function collect(declare: (runner: Runner) => void): Map<string, () => Promise<void>> {
  const checks = new Map<string, () => Promise<void>>()
  declare({ describe: (_, body) => body(), it: (name, body) => checks.set(name, async () => body()) })
  return checks
}
