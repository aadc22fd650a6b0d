/** The committed tables of what runs where name the methods and backends that exist; and how they are made of a run. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { backends } from "./backends.ts"
import {
  counts,
  type Existing,
  formatTable,
  type Group,
  marked,
  missing,
  packageOf,
  parseName,
  staleness,
  summary,
  summaryTable,
  supportPage,
} from "./conformance-result.ts"
import { weights } from "./formats.ts"
import { methodPackages } from "./method-packages.ts"

const read = (...path: readonly string[]): string => {
  const file = join(import.meta.dirname, "..", ...path)
  return existsSync(file) ? readFileSync(file, "utf8") : ""
}
const existing: Existing = {
  methods: methodPackages(),
  backends: Object.keys(backends),
  formats: Object.keys(weights),
}

describe("the committed tables (npm run test:conformance, then npm run support)", () => {
  it("README.md", () => expect(staleness(marked(read("README.md")) ?? "", existing)).toEqual([]))
  it("docs/support.md", () => {
    const [summary = ""] = read("docs", "support.md").split("\n## ", 1)
    expect(staleness(summary, existing)).toEqual([])
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

const on = (format: string): string => `on weights in ${format} it computes and learns as on the same values in f32`
const over: readonly Group[] = [
  {
    ...{ package: "lora", ...parseName("adapter lora on cpu"), place: "Node" },
    checks: { [on("a format of their own")]: "passed", [on("bf16")]: "passed", [on("nf4")]: "passed" },
  },
  {
    ...{ package: "lora", ...parseName("adapter lora on webgpu"), place: "Node" },
    checks: { [on("nf4")]: "passed", [on("int8")]: "failed" },
  },
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
  it("the device that a backend named stands in its column, where it ran", () => {
    const device: Group = {
      ...{ package: "device", ...parseName("device of cpu"), place: "Node", device: "a GPU on the moon" },
      checks: { "has a name": "passed" },
    }
    const table = summary([...groups, ...over, device])
    expect(table.split("\n", 3)).toEqual([
      "| method | cpu on a GPU on the moon, Node | webgpu, Node | webgpu, Chromium |",
      "| --- | --- | --- | --- |",
      "| (the backend itself) | ✓ 2 |  |  |",
    ])
    expect(staleness(table, { backends: ["cpu", "webgpu"] })).toEqual([])
  })
  it("methods over formats", () => {
    expect(formatTable([...groups, ...over])).toBe(
      ["| method | bf16 | nf4 | int8 |", "| --- | --- | --- | --- |", "| lora | ✓ 1 | ✓ 2 | ✗ 1 of 1 |"].join("\n"),
    )
  })
  it("the package of a test, or the name of what lies elsewhere", () => {
    expect(packageOf("packages/lora/test/conformance.test.ts")).toBe("lora")
    expect(packageOf("tests/third-party-adapter-conformance.test.ts")).toBe("third-party-adapter")
  })
  it("the page has a row for a family of checks", () =>
    expect(supportPage(groups)).toContain("| operations, value and gradient | ✓ 2 |  |"))
  it("a table that names others than there are is stale", () => {
    const other = { methods: ["lora", "mora"], backends: ["cpu"], formats: ["nf4", "fp4"] }
    expect(staleness(summary([...groups, ...over]), other)).toEqual([
      "methods: mora exists and is not listed",
      "backends: webgpu is listed and does not exist",
      "formats: fp4 exists and is not listed",
      "formats: int8 is listed and does not exist",
    ])
  })
})
