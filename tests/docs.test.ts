/** Code in the documentation is code that is tested: every block that names its file equals it, and guides have no other code. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { blocksOf, docs, excerpt } from "../scripts/docs-code.ts"

const blocks = new Map(
  readdirSync(docs)
    .filter((name) => name.endsWith(".md"))
    .map((name) => [name, blocksOf(readFileSync(join(docs, name), "utf8"))]),
)
const guides = [...blocks.keys()].filter((name) => name.startsWith("write-"))

it("guides are found", () => expect(guides).toEqual(["write-a-backend.md", "write-an-adapter.md"]))

describe("what the documentation takes from files (npx tsx scripts/docs-code.ts writes it anew)", () => {
  for (const [name, all] of blocks)
    for (const { source, code } of all)
      if (source) it(`docs/${name}: ${source}`, () => expect(code).toBe(excerpt(source)))
})

it.each(guides)("docs/%s has no other code", (name) => {
  const all = blocks.get(name) ?? []
  const others = all.filter((block) => !block.source && block.language !== "sh")
  expect(others.map((block) => block.code)).toEqual([])
  expect(all.filter((block) => block.source).length).toBeGreaterThan(3)
})

it("an excerpt leaves out markers and indentation, and a region that is not there is an error", () => {
  expect(excerpt("packages/conformance/src/fake-backend.ts#matmul")).toMatch(/^matmul\(a, b, dims\) \{\n {2}const/)
  expect(excerpt("examples/third-party-adapter/ia3.js")).not.toContain("#region")
  expect(() => excerpt("examples/third-party-adapter/ia3.js#nothing")).toThrow("no region")
})
