/** The packages keep to the arrows, and the checker that says so can say otherwise. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { breaches, type Manifest, type Package } from "./arrows.ts"

const root = join(import.meta.dirname, "..", "packages")

function read(folder: string): Package {
  const manifest: Manifest = JSON.parse(readFileSync(join(root, folder, "package.json"), "utf8"))
  const paths = readdirSync(join(root, folder, "src"), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts"))
    .map((path) => `src/${path.replaceAll("\\", "/")}`)
  return {
    folder,
    manifest,
    sources: new Map(paths.map((path) => [path, readFileSync(join(root, folder, path), "utf8")])),
  }
}

/** A made-up package: `.` is src/index.ts and `./node` is src/node.ts. */
function made(folder: string, sources: Record<string, string>, dependencies: readonly string[] = []): Package {
  const exports = { ".": "./src/index.ts", "./node": "./src/node.ts" }
  return {
    folder,
    manifest: {
      name: `@peftjs/${folder}`,
      exports,
      dependencies: Object.fromEntries(dependencies.map((d) => [d, "1"])),
    },
    sources: new Map(Object.entries(sources).map(([path, source]) => [`src/${path}`, source])),
  }
}
const found = (folder: string, sources: Record<string, string>, dependencies?: readonly string[]): string =>
  breaches([made(folder, sources, dependencies)]).join("\n")

it("every package keeps to the arrows", () => {
  const packages = readdirSync(root).filter((folder) => existsSync(join(root, folder, "package.json")))
  expect(packages.length).toBeGreaterThanOrEqual(8)
  expect(breaches(packages.map(read))).toEqual([])
})

describe("the checker finds", () => {
  it.each([
    ["lora", "@peftjs/backend-cpu"],
    ["lora", "@peftjs/models"],
    ["mora", "@peftjs/lora"],
    ["backend-cpu", "@peftjs/lora"],
    ["models", "@peftjs/lora"],
    ["models", "@peftjs/backend-cpu"],
    ["train", "@peftjs/models"],
    ["core", "@peftjs/models"],
    ["safetensors", "@peftjs/core"],
    ["conformance", "@peftjs/backend-cpu"],
    ["train", "@peftjs/cli"],
    ["cli", "@peftjs/cli"],
  ])("%s importing %s", (folder, other) => {
    for (const form of [
      `import { x } from "${other}"`,
      `import type { X } from "${other}"`,
      `export * from "${other}"`,
      `export const x = await import("${other}")`,
      `export type X = import("${other}").X`,
    ])
      expect(found(folder, { "index.ts": form }, [other])).toMatch(/against the arrows|its own package/)
  })
  it("no breach where the arrow is allowed", () => {
    expect(found("lora", { "index.ts": `import { x } from "@peftjs/core"` }, ["@peftjs/core"])).toBe("")
    expect(found("qlora", { "index.ts": `import { x } from "@peftjs/lora"` }, ["@peftjs/lora"])).toBe("")
    expect(
      found("cli", { "main.ts": `import fs from "node:fs"; import { x } from "@peftjs/train"` }, ["@peftjs/train"]),
    ).toBe("")
  })
  it("an undeclared dependency", () => {
    expect(found("core", { "index.ts": `import x from "left-pad/deep"` })).toMatch(
      "imports left-pad, which package.json does not declare",
    )
  })
  it("a missing or foreign file", () => {
    expect(found("core", { "index.ts": `import "./gone.ts"` })).toMatch("not a source file of this package")
    expect(found("core", { "index.ts": `import "../../lora/src/index.ts"` })).toMatch(
      "not a source file of this package",
    )
  })
  it("node: reached from the main entry, however far away", () => {
    const far = {
      "index.ts": `export * from "./a.ts"`,
      "a.ts": `await import("./node-b.ts")`,
      "node-b.ts": `import "node:fs"`,
    }
    expect(found("core", far)).toMatch("packages/core/src/node-b.ts: imports node:fs outside a /node entry")
    expect(found("core", { "index.ts": `import "fs"` })).toMatch("without node:")
    expect(found("core", { "node.ts": `import "./files.ts"`, "files.ts": `import "node:fs"` })).toMatch(
      "not named node.ts",
    )
  })
  it("no breach for node: behind the /node entry alone", () => {
    const sources = {
      "index.ts": "export {}",
      "node.ts": `export * from "./node-files.ts"`,
      "node-files.ts": `import "node:fs"`,
    }
    expect(found("core", sources)).toBe("")
    expect(found("core", { ...sources, "index.ts": `import "./node-files.ts"` })).toMatch("outside a /node entry")
  })
  it("a worker's file named by its URL", () => {
    const worker = {
      "index.ts": `new Worker(new URL("./node-w.ts", import.meta.url))`,
      "node-w.ts": `import "node:fs"`,
    }
    expect(found("core", worker)).toMatch("node-w.ts: imports node:fs outside")
  })
  it("a /node entry of another package, or a package that only Node loads, from a main entry", () => {
    expect(found("train", { "index.ts": `import "@peftjs/core/node"` }, ["@peftjs/core"])).toMatch("needs Node")
    expect(found("train", { "node.ts": `import "@peftjs/core/node"` }, ["@peftjs/core"])).toBe("")
    expect(found("backend-cpu", { "index.ts": `await import("koffi")` }, ["koffi"])).toMatch("needs Node")
  })
  it("Node's globals, but not names that only look like them", () => {
    expect(found("core", { "index.ts": "export const x = process.env.HOME" })).toMatch("global process")
    expect(found("core", { "index.ts": "export const f = (x: Buffer): number => x.length" })).toMatch("global Buffer")
    expect(found("core", { "index.ts": "export const f = (process: number) => ({ process, global: process })" })).toBe(
      "",
    )
    expect(found("core", { "index.ts": `export const inNode = typeof process === "object"` })).toBe("")
  })
  it("a computed import outside cli", () => {
    expect(found("core", { "index.ts": "export const f = (x: string) => import(x)" })).toMatch("computed")
    expect(found("cli", { "main.ts": "export const f = (x: string) => import(x)" })).toBe("")
  })
})
