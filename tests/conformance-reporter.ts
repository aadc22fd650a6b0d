/**
 * The vitest reporter of `npm run test:conformance`: prints the checks of each backend and of each method on it, those that failed and why,
 * the reason of every skip, and last "N passed, N failed, N skipped". Keeps the result in .cache/ for `npm run support`.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Reporter, TestCase, TestModule, TestSuite } from "vitest/node"
import { count, counts, type Group, missing, packageOf, parseName, type State } from "./conformance-result.ts"

type Building = Omit<Group, "checks" | "device"> & { checks: Record<string, State>; device?: string }

export default class ConformanceReporter implements Reporter {
  private readonly groups: Group[] = []
  private failures = 0

  onTestModuleEnd(module: TestModule): void {
    const found = groupsOf(module)
    for (const group of found) {
      console.log(`${group.name} in ${group.place}: ${counts([group])}${group.absent ? ` (${group.absent})` : ""}`)
    }
    for (const test of module.children.allTests()) {
      const { state, errors } = test.result()
      if (state === "failed") console.log(`  FAILED ${test.fullName}\n    ${errors.map(messageOf).join("\n    ")}`)
    }
    for (const error of module.errors()) {
      this.failures++
      console.log(`  FAILED ${module.relativeModuleId} in ${module.project.name}\n    ${messageOf(error)}`)
    }
    this.groups.push(...found)
  }

  onTestRunEnd(_: readonly TestModule[], errors: readonly { message: string }[]): void {
    const required = (process.env.REQUIRE_BACKENDS ?? "").split(",").map((name) => name.trim())
    for (const error of errors) console.log(`FAILED outside of any test: ${messageOf(error)}`)
    const absent = missing(
      this.groups,
      required.filter((name) => name !== ""),
    )
    for (const name of absent) console.log(`FAILED ${name} is required, and nothing of it has passed`)
    this.failures += errors.length + absent.length
    const sorted = this.groups.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
    const folder = join(import.meta.dirname, "..", ".cache")
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, "conformance.json"), `${JSON.stringify(sorted, null, 1)}\n`)
    for (const group of sorted)
      if (group.absent) console.log(`skipped: ${group.name} in ${group.place}: ${group.absent}`)
    const [passed, failed] = [count(sorted, "passed"), count(sorted, "failed") + this.failures]
    console.log(`${passed} passed, ${failed} failed, ${count(sorted, "skipped")} skipped`)
    if (failed > 0 || passed === 0) process.exitCode = 1
  }
}

const keyOf = (g: Group): string => `${g.kind} ${g.name} ${g.place}`
const messageOf = (error: { message?: string } | undefined): string =>
  (error?.message ?? "").split("\n", 3).join("\n    ")

function groupsOf(module: TestModule): Group[] {
  const found = new Map<string, Building>()
  const folder = packageOf(module.relativeModuleId)
  const place = module.project.isBrowserEnabled() ? "Chromium" : "Node"
  for (const test of module.children.allTests()) {
    const outer = outermost(test)
    const group = found.get(outer) ?? { ...parseName(outer), package: folder, place, checks: {} }
    found.set(outer, group)
    const { state } = test.result()
    const { device } = test.meta() as { device?: string }
    if (device !== undefined) group.device = device
    group.checks[test.name] = state === "passed" || state === "skipped" ? state : "failed"
  }
  return [...found.values()]
}

/** The name of the outermost group of a test, or its own. */
function outermost(test: TestCase): string {
  let at: TestCase | TestSuite = test
  while (at.parent.type !== "module") at = at.parent
  return at.name
}
