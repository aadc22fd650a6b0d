/** The committed tables of what runs where name the methods and backends that exist; and how they are made of a run. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { backends } from "./backends.ts"
import {
  counts,
  type Group,
  marked,
  missing,
  parseName,
  staleness,
  summaryTable,
  supportPage,
} from "./conformance-result.ts"
import { methodPackages } from "./method-packages.ts"

const read = (...path: readonly string[]): string => {
  const file = join(import.meta.dirname, "..", ...path)
  return existsSync(file) ? readFileSync(file, "utf8") : ""
}
const names = Object.keys(backends)

describe("the committed tables (npm run test:conformance, then npm run support)", () => {
  it("README.md", () => expect(staleness(marked(read("README.md")) ?? "", methodPackages(), names)).toEqual([]))
  it("docs/support.md", () => {
    const [summary = ""] = read("docs", "support.md").split("\n## ", 1)
    expect(staleness(summary, methodPackages(), names)).toEqual([])
  })
})

const groups: readonly Group[] = [
  {
    package: "backend-cpu",
    ...parseName("backend cpu"),
    place: "Node",
    checks: { "op add": "passed", "op mul": "passed" },
  },
  { package: "lora", ...parseName("adapter lora, DoRA on cpu"), place: "Node", checks: { learns: "passed" } },
  { package: "lora", ...parseName("adapter lora on webgpu: no: adapter"), place: "Chromium", checks: { x: "skipped" } },
  { package: "conformance", ...parseName("backend fake"), place: "Node", checks: { "op add": "failed" } },
]

describe("tables of a run", () => {
  it("names say what was run, and why not", () => {
    expect(parseName("adapter lora on webgpu: no: adapter")).toEqual({
      name: "adapter lora on webgpu",
      kind: "adapter",
      backend: "webgpu",
      absent: "no: adapter",
    })
    expect(parseName("backend cpu, wasm kernels")).toEqual({
      name: "backend cpu, wasm kernels",
      kind: "backend",
      backend: "cpu, wasm kernels",
    })
  })
  it("counts", () => expect(counts(groups)).toBe("3 passed, 1 failed, 1 skipped"))
  it("what was required and did not pass", () => {
    expect(missing(groups, ["cpu", "webgpu", "fake", "chromium"])).toEqual(["webgpu", "fake", "chromium"])
  })
  it("the summary", () => {
    expect(summaryTable(groups)).toBe(
      [
        "| method | cpu, Node | webgpu, Chromium |",
        "| --- | --- | --- |",
        "| (the backend itself) | ✓ 2 |  |",
        "| lora | ✓ 1 | not run |",
      ].join("\n"),
    )
  })
  it("the page has a row for a family of checks", () =>
    expect(supportPage(groups)).toContain("| operations, value and gradient | ✓ 2 |  |"))
  it("a table that names others than there are is stale", () => {
    expect(staleness(summaryTable(groups), ["lora", "mora"], ["cpu"])).toEqual([
      "methods: mora exists and is not listed",
      "backends: webgpu is listed and does not exist",
    ])
  })
})
