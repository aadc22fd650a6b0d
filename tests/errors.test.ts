/** Every error code that a package can throw has a row in docs/errors.md, and every row has a code that exists. */
import { readdirSync, readFileSync } from "node:fs"
import { expect, test } from "vitest"

const root = new URL("..", import.meta.url)
// Package by package: the packages' links to each other go round in circles.
const sources = readdirSync(new URL("packages", root))
  .filter((name) => name !== "conformance")
  .flatMap((name) => {
    const files = readdirSync(new URL(`packages/${name}/src`, root), { recursive: true, encoding: "utf8" })
    return files.filter((file) => file.endsWith(".ts")).map((file) => `${name}/src/${file}`)
  })
const thrown = new Set(
  sources.flatMap((file) => readFileSync(new URL(`packages/${file}`, root), "utf8").match(/\bE_[A-Z_]+\b/g) ?? []),
)
const documented = new Set(readFileSync(new URL("docs/errors.md", root), "utf8").match(/(?<=^\| `)E_[A-Z_]+/gm) ?? [])

test("sources are found", () => expect(thrown.size).toBeGreaterThan(20))
test("every code is documented", () => expect([...thrown].filter((code) => !documented.has(code)).sort()).toEqual([]))
test("every documented code exists", () =>
  expect([...documented].filter((code) => !thrown.has(code)).sort()).toEqual([]))
