/**
 * The checker of the arrows between packages (docs/concepts.md): which package may import which, that every import is declared,
 * and that Node stays behind `/node` entries. It sees manifests and sources as text and touches no disk, so that it can be shown to fail.
 */
import { isBuiltin } from "node:module"
import { posix } from "node:path"
import { parseSync } from "vite"

export type Manifest = {
  readonly name: string
  readonly exports?: unknown
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
}
/** A package: its folder under packages/, its manifest, and its sources by path from that folder (`src/index.ts`). */
export type Package = {
  readonly folder: string
  readonly manifest: Manifest
  readonly sources: ReadonlyMap<string, string>
}

/** What a package may import of ours. A folder not named here is a backend if it says so, and otherwise a method: both see core alone. */
const allowed: Readonly<Record<string, readonly string[] | "all">> = {
  safetensors: [],
  core: ["safetensors"],
  models: ["core", "safetensors"],
  train: ["core", "safetensors"],
  conformance: ["core"],
  qlora: ["core", "lora"],
  gguf: ["core", "safetensors"],
  cli: "all",
}
/** Third-party packages that load only in Node, and the globals only Node has. */
const nodePackages = new Set(["koffi"])
const nodeGlobals = new Set([
  "process",
  "Buffer",
  "require",
  "global",
  "__dirname",
  "__filename",
  "setImmediate",
  "NodeJS",
])

type Import = { readonly from: string; readonly computed: boolean }
type Parsed = { readonly imports: readonly Import[]; readonly globals: readonly string[] }

/** Every breach found, one line each; empty when the arrows hold. */
export function breaches(packages: readonly Package[]): string[] {
  return packages.flatMap(breachesOf)
}

function breachesOf({ folder, manifest, sources }: Package): string[] {
  const found: string[] = []
  const parsed = new Map([...sources].map(([path, source]) => [path, parse(path, source)]))
  const nodeOnly = behindNode(manifest, parsed)
  const declared = { ...manifest.dependencies, ...manifest.peerDependencies, ...manifest.optionalDependencies }
  for (const [path, { imports, globals }] of parsed) {
    const mayUseNode = folder === "cli" || nodeOnly.has(path)
    const say = (what: string): number => found.push(`packages/${folder}/${path}: ${what}`)
    if (!mayUseNode) for (const name of globals) say(`uses Node's global ${name} outside a /node entry`)
    for (const { from, computed } of imports) {
      if (computed) {
        if (!mayUseNode) say("imports a computed name; only cli and files behind a /node entry may")
        continue
      }
      if (from.startsWith(".")) {
        if (!sources.has(join(path, from))) say(`imports ${from}, which is not a source file of this package`)
        continue
      }
      if (isBuiltin(from)) {
        if (!from.startsWith("node:")) say(`imports ${from} without node:`)
        if (!mayUseNode) say(`imports ${from} outside a /node entry`)
        else if (folder !== "cli" && !/^node(-.+)?\.ts$/.test(posix.basename(path)))
          say(`imports ${from} in a file not named node.ts or node-*.ts`)
        continue
      }
      const name = packageOf(from)
      if (name === manifest.name) say(`imports its own package ${from}; use a relative path`)
      else if (!(name in declared)) say(`imports ${name}, which package.json does not declare`)
      if (name.startsWith("@peftjs/") && name !== manifest.name && !mayImport(folder, name.slice(8)))
        say(`imports ${name} against the arrows`)
      if (!mayUseNode && (nodePackages.has(name) || /^@peftjs\/[^/]+\/node(-|$)/.test(from)))
        say(`imports ${from}, which needs Node, outside a /node entry`)
    }
  }
  return found
}

function mayImport(folder: string, other: string): boolean {
  if (other === "cli") return false
  const list = allowed[folder] ?? ["core"]
  return list === "all" || list.includes(other)
}

/** The files reached from a `/node` entry (or a `node` condition) and from no other. A file that nothing reaches counts as reachable everywhere. */
function behindNode(manifest: Manifest, parsed: ReadonlyMap<string, Parsed>): ReadonlySet<string> {
  const node: string[] = []
  const other: string[] = []
  const collect = (value: unknown, isNode: boolean): void => {
    if (typeof value === "string") (isNode ? node : other).push(posix.normalize(value))
    else for (const [key, inner] of Object.entries(value ?? {})) collect(inner, isNode || /^(\.\/)?node(-|$)/.test(key))
  }
  collect(manifest.exports, false)
  const elsewhere = reach(other, parsed)
  return new Set([...reach(node, parsed)].filter((path) => !elsewhere.has(path)))
}

function reach(entries: readonly string[], parsed: ReadonlyMap<string, Parsed>): ReadonlySet<string> {
  const seen = new Set<string>()
  const queue = [...entries]
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (seen.has(path) || !parsed.has(path)) continue
    seen.add(path)
    for (const { from } of parsed.get(path)?.imports ?? []) if (from.startsWith(".")) queue.push(join(path, from))
  }
  return seen
}

const join = (path: string, from: string): string => posix.join(posix.dirname(path), from)
const packageOf = (from: string): string => from.split("/", from.startsWith("@") ? 2 : 1).join("/")

type Node = { readonly type: string; readonly [key: string]: unknown }

/** Imports of every kind: static, re-exported, dynamic, in a type, and files named by `new URL("./x.ts", import.meta.url)` (workers). */
function parse(path: string, source: string): Parsed {
  const { program, errors } = parseSync(path, source)
  if (errors.length > 0) throw new Error(`${path}: ${errors[0]?.message}`)
  const imports: Import[] = []
  const globals = new Set<string>()
  const declared = new Set<string>()
  const literal = (node: unknown): string | undefined => {
    const { type, value, quasis } = (node ?? {}) as {
      type?: string
      value?: unknown
      quasis?: { value: { cooked: string } }[]
    }
    if (type === "TemplateLiteral" && quasis?.length === 1) return quasis[0]?.value.cooked
    return typeof value === "string" ? value : undefined
  }
  const add = (node: unknown): number => {
    const from = literal(node)
    return imports.push({ from: from ?? "", computed: from === undefined })
  }
  const visit = (node: Node, parent: Node | undefined, key: string): void => {
    if (/^(Import|ExportNamed|ExportAll)Declaration$/.test(node.type) && node.source) add(node.source)
    if (node.type === "ImportExpression" || node.type === "TSImportType") add(node.source ?? node.argument)
    if (node.type === "NewExpression" && (node.callee as Node).name === "URL") {
      const [first, base] = node.arguments as Node[]
      const from = literal(first)
      if (from?.endsWith(".ts") && base?.type === "MemberExpression") imports.push({ from, computed: false })
    }
    if (node.type === "Identifier" && nodeGlobals.has(node.name as string)) {
      if (isBinding(parent, key)) declared.add(node.name as string)
      else if (!isName(parent, key)) globals.add(node.name as string)
    }
    for (const [name, value] of Object.entries(node))
      for (const child of Array.isArray(value) ? value : [value])
        if (child !== null && typeof child === "object" && "type" in child) visit(child as Node, node, name)
  }
  visit(program as unknown as Node, undefined, "")
  return { imports, globals: [...globals].filter((name) => !declared.has(name)) }
}

const isBinding = (parent: Node | undefined, key: string): boolean =>
  key === "params" || key === "local" || (key === "id" && parent?.type !== "TSTypeReference")
/** A property's or member's name, or the operand of `typeof`, which asks whether the global is there. */
const isName = (parent: Node | undefined, key: string): boolean =>
  (key === "property" && parent?.computed === false) ||
  (key === "key" && parent?.computed === false) ||
  (parent?.type === "UnaryExpression" && parent.operator === "typeof")
