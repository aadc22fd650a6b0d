/** Files of results: what was measured, with the commit and the machine. Must not know what is measured. */
import { spawnSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { availableParallelism, cpus, totalmem } from "node:os"
import { dirname, join } from "node:path"

const root = join(import.meta.dirname, "..")

/** `bench/results/NAME.json`. */
export const resultFile = (name: string): string => join(root, "bench", "results", `${name}.json`)

/** What a figure means nothing without; a commit whose files have been changed since ends in "+". */
export function circumstances(): {
  readonly date: string
  readonly commit: string
  readonly machine: {
    readonly cpu: string
    readonly cores: number
    readonly threads: number
    readonly memory_gb: number
  }
  readonly node: string
} {
  const git = (...args: string[]): string => spawnSync("git", args, { cwd: root, encoding: "utf8" }).stdout.trim()
  const changed = git("status", "--porcelain", "--untracked-files=no") === "" ? "" : "+"
  const processors = cpus()
  return {
    date: new Date().toISOString(),
    commit: `${git("rev-parse", "--short", "HEAD") || "unknown"}${changed}`,
    machine: {
      cpu: processors[0]?.model.trim() ?? "unknown",
      cores: processors.length,
      threads: availableParallelism(),
      memory_gb: Math.round(totalmem() / 2 ** 30),
    },
    node: process.version,
  }
}

/** Writes the result, its circumstances first; files of this machine, such as a library's, by their last name alone. */
export function writeResult(path: string, result: object): void {
  const plain = (_: string, value: unknown): unknown =>
    typeof value === "string" ? value.replaceAll(/(?<![\w.:/])\/(?:[^\s/,)]+\/)+/g, "") : value
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, `${JSON.stringify({ ...circumstances(), ...result }, plain, 2)}\n`)
}
