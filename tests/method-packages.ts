/** Which packages are methods: those whose conformance test runs the adapter kit. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"

const packages = join(import.meta.dirname, "..", "packages")

/** Their folders under packages/, in order. */
export function methodPackages(): string[] {
  return readdirSync(packages)
    .filter((name) => {
      const test = join(packages, name, "test", "conformance.test.ts")
      return existsSync(test) && readFileSync(test, "utf8").includes("testAdapter(")
    })
    .sort()
}
