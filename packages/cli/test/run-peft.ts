/** Runs the `peft` command as a user does, and makes what it needs. */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { writeTinyModel } from "../../../scripts/tiny-model.ts"

export const fixtures: string = fileURLToPath(new URL("../../../fixtures", import.meta.url))
export const bin: string = fileURLToPath(new URL("../bin/peft.js", import.meta.url))

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export function start(args: readonly string[], cwd?: string, env: Readonly<Record<string, string>> = {}): ChildProcess {
  // The same kernels wherever the tests run, and nothing from the network or the cache of this machine's user.
  const own = {
    PEFT_BLAS: "off",
    PEFT_DEBUG: "",
    HF_HUB_OFFLINE: "1",
    HF_TOKEN: "",
    HF_HUB_CACHE: join(tmpdir(), "none"),
  }
  return spawn(process.execPath, [bin, ...args], { cwd, env: { ...process.env, ...own, ...env } })
}

export function finish(child: ChildProcess): Promise<Finished> {
  const text = { stdout: "", stderr: "" }
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (piece: string) => {
      text[name] += piece
    })
  }
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, ...text }))
  })
}

export function peft(...args: string[]): Promise<Finished> {
  return finish(start(args))
}

/** Runs it with --json; throws its stderr unless it succeeds and prints one JSON object. */
export async function peftJson<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await peft(...args, "--json")
  if (code !== 0) throw new Error(`peft ${args.join(" ")} ended with ${code}: ${stderr}`)
  return JSON.parse(stdout) as T
}

export interface Workplace {
  readonly folder: string
  /** The tiny Llama with a tokenizer. */
  readonly model: string
  /** 24 conversations. */
  readonly rows: string
  path(...parts: string[]): string
  write(name: string, text: string): string
  remove(): void
}

export function makeWorkplace(): Workplace {
  const folder = mkdtempSync(join(tmpdir(), "peft-cli-"))
  const path = (...parts: string[]): string => join(folder, ...parts)
  const write = (name: string, text: string): string => {
    writeFileSync(path(name), text)
    return path(name)
  }
  writeTinyModel(path("tiny"))
  const rows = Array.from({ length: 24 }, (_, n) => ({
    messages: [
      { role: "user", content: `What is ${n} and ${n}?` },
      { role: "assistant", content: `It is ${2 * n}.` },
    ],
  }))
  return {
    folder,
    model: path("tiny"),
    rows: write("rows.jsonl", rows.map((row) => `${JSON.stringify(row)}\n`).join("")),
    path,
    write,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}

/** The lines of metrics.jsonl, also while it is being written. */
export function metricsIn(output: string): { step: number; loss: number; learning_rate: number }[] {
  const file = join(output, "metrics.jsonl")
  if (!existsSync(file)) return []
  return readFileSync(file, "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line))
}
