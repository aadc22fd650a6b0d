/**
 * A project outside the workspace installs the packed tarballs with npm, type-checks the README's program and runs it as it stands,
 * then calls the installed `peft`. What the program reads is laid beside it first: a tiny random model and some rows.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { pack } from "./pack.ts"
import { writeTinyModel } from "./tiny-model.ts"

const root = join(import.meta.dirname, "..")
const program = /^```ts\n([\s\S]*?)^```/m.exec(readFileSync(join(root, "README.md"), "utf8"))?.[1]
if (program === undefined) throw new Error("README.md has no ts block")

const folder = mkdtempSync(join(tmpdir(), "peftjs-consumer-"))
try {
  const tarballs = pack()
  const entries = tarballs.map((path) => [
    basename(path).replace(/^peftjs-(.+)-\d+\.\d+\.\d+.*$/, "@peftjs/$1"),
    `file:${path}`,
  ])
  const dependencies: Record<string, string> = Object.fromEntries(entries)
  write("package.json", { name: "consumer", private: true, type: "module", dependencies })
  write("tsconfig.json", {
    compilerOptions: {
      target: "es2023",
      lib: ["es2023", "dom"],
      types: [],
      module: "nodenext",
      strict: true,
      exactOptionalPropertyTypes: true,
    },
    files: ["program.ts"],
  })
  writeFileSync(join(folder, "program.ts"), program)
  // The program's own names for its model and its data: whatever it says, that is where they are.
  for (const [, path = ""] of program.matchAll(/loadCausalLM\(\s*"([^"]+)"/g)) writeTinyModel(join(folder, path))
  for (const [, path = ""] of program.matchAll(/"([^"]+\.jsonl)"/g)) writeFileSync(join(folder, path), rows())
  run("npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "--loglevel=error")
  run(join(root, "node_modules/.bin/tsc"), "--project", "tsconfig.json")
  run("node", "program.js")
  run("npx", "--no-install", "peft", "--help")
} finally {
  rmSync(folder, { recursive: true, force: true })
}

function write(name: string, value: unknown): void {
  writeFileSync(join(folder, name), JSON.stringify(value, null, 2))
}

function run(command: string, ...args: readonly string[]): void {
  console.log(`$ ${basename(command)} ${args.join(" ")}`)
  const { status, error } = spawnSync(command, args, { cwd: folder, stdio: "inherit" })
  if (status !== 0) throw error ?? new Error(`${basename(command)} ended with ${status}`)
}

function rows(): string {
  const row = (n: number): object => ({
    messages: [
      { role: "user", content: `What is ${n} and ${n}?` },
      { role: "assistant", content: `It is ${2 * n}.` },
    ],
  })
  return Array.from({ length: 8 }, (_, n) => `${JSON.stringify(row(n))}\n`).join("")
}
