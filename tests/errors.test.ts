/** Every error code that a package can throw has a row in docs/errors.md, and every row has a code that exists. */
import { readdirSync, readFileSync } from "node:fs"
import { expect, test } from "vitest"

const root = new URL("..", import.meta.url)
const sources = readdirSync(new URL("packages", root), { recursive: true, encoding: "utf8" }).filter(
  (file) => /^[^/]+\/src\/.*\.ts$/.test(file) && !file.startsWith("conformance/"),
)
const thrown = new Set(
  sources.flatMap((file) => readFileSync(new URL(`packages/${file}`, root), "utf8").match(/\bE_[A-Z_]+\b/g) ?? []),
)
const documented = new Set(readFileSync(new URL("docs/errors.md", root), "utf8").match(/(?<=^\| `)E_[A-Z_]+/gm) ?? [])

test("sources are found", () => expect(thrown.size).toBeGreaterThan(20))
test("every code is documented", () => expect([...thrown].filter((code) => !documented.has(code)).sort()).toEqual([]))
test("every documented code exists", () =>
  expect([...documented].filter((code) => !thrown.has(code)).sort()).toEqual([]))
