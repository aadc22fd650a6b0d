/**
 * Somebody else's method, examples/third-party-adapter, outside this repository: installed beside the packed tarballs with npm, it passes
 * the published kit and PEFT's fixtures, trains a few steps through `npx peft train --method` on the demo's model, and loads again.
 */
import { spawnSync } from "node:child_process"
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { pack } from "./pack.ts"

const root = join(import.meta.dirname, "..")
const folder = mkdtempSync(join(tmpdir(), "peftjs-stranger-"))
const method = "third-party-adapter"
try {
  const tarballs = pack().map((path) => [basename(path).replace(/^peftjs-(.+)-\d+\.\d+\.\d+.*$/, "@peftjs/$1"), path])
  const dependencies = Object.fromEntries(tarballs.map(([name, path]) => [name, `file:${path}`]))
  cpSync(join(root, "examples", method), join(folder, method), { recursive: true })
  cpSync(join(root, "demo"), join(folder, "demo"), { recursive: true })
  const manifest = {
    name: "stranger",
    private: true,
    dependencies: { ...dependencies, "peft-ia3": `file:./${method}` },
  }
  writeFileSync(join(folder, "package.json"), JSON.stringify(manifest, null, 2))
  run("npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "--loglevel=error")
  const types = ["--strict", "--module", "nodenext", "--target", "es2023", "--lib", "es2023,dom", "--types", ""]
  run(join(root, "node_modules/.bin/tsc"), "--noEmit", "--allowJs", "--checkJs", ...types, `${method}/ia3.js`)
  run("node", "--test", "--test-force-exit", `${method}/test/conformance.test.js`, `${method}/test/peft.test.js`)

  const data = ["--model", "demo/model", "--data", "demo/train.jsonl"]
  const targets = ["--target-modules", "k_proj,v_proj,down_proj"]
  const feedforward = ["--method-option", 'feedforward_modules=["down_proj"]']
  const pace = ["--max-steps", "3", "--batch-size", "2", "--learning-rate", "0.05"]
  peft("train", "--method", `./${method}`, ...data, ...targets, ...feedforward, ...pace, "--output", "out")
  // By its path and, as it is installed, by its name; without either nobody knows it.
  const heldOut = ["--model", "demo/model", "--data", "demo/held-out.jsonl", "--adapter", "out/adapter", "--json"]
  const [byPath, byName] = [`./${method}`, "peft-ia3"].map((name) => peft("eval", ...heldOut, "--method", name))
  if (byPath !== byName) throw new Error(`by its path the adapter gives ${byPath}, by its name ${byName}`)
  const unknown = spawnSync("npx", ["--no-install", "peft", "eval", ...heldOut], { cwd: folder, encoding: "utf8" })
  if (!unknown.stderr.includes("E_PEFT_TYPE")) throw new Error(`without --method: ${unknown.stderr}`)
} finally {
  rmSync(folder, { recursive: true, force: true })
}

function peft(...args: readonly string[]): string {
  return run("npx", "--no-install", "peft", ...args)
}

/** Runs a command in the folder and returns what it printed. */
function run(command: string, ...args: readonly string[]): string {
  console.log(`$ ${basename(command)} ${args.join(" ")}`)
  // Where PEFT's models are, for the stranger's test.
  const env = { ...process.env, MODELS: join(root, "fixtures", "models") }
  const { status, error, stdout, stderr } = spawnSync(command, args, { cwd: folder, encoding: "utf8", env })
  if (status === 0) return stdout
  console.log(`${stdout}${stderr}`)
  throw error ?? new Error(`${basename(command)} ended with ${status}`)
}
