/** Which packages, and which folders elsewhere, are methods: those whose conformance test runs the adapter kit. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"

const packages = join(import.meta.dirname, "..", "packages")

/** Their folders under packages/, and NAME of every tests/NAME-conformance.test.ts, in order. */
export function methodPackages(): string[] {
  const tests: readonly (readonly [string, string])[] = [
    ...readdirSync(packages).map((name) => [name, join(packages, name, "test", "conformance.test.ts")] as const),
    ...readdirSync(import.meta.dirname)
      .filter((file) => file.endsWith("-conformance.test.ts"))
      .map((file) => [file.replace("-conformance.test.ts", ""), join(import.meta.dirname, file)] as const),
  ]
  return tests
    .filter(([, test]) => existsSync(test) && readFileSync(test, "utf8").includes("testAdapter("))
    .map(([name]) => name)
    .sort()
}
