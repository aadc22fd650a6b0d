/** Runs the two programs that are compared: the `peft` command of this repository and Python. It must not know what is checked. */
import { type ChildProcess, spawn } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { type Oracle, repository } from "./setup.ts"

/** Everything a check needs: the oracle's paths, an empty folder of its own and the two programs. */
export type Context = Omit<Oracle, "python"> & {
  /** A temporary folder, removed after the run. */
  folder: string
  /** Runs `peft` to its end and returns its stdout; throws with its last lines when it exits with another code than 0. */
  peft: (...args: string[]) => Promise<string>
  /** Runs a script of this folder in the pinned environment and parses what it prints. */
  python: <T>(script: string, ...args: string[]) => Promise<T>
  /** Writes JSON into the folder and returns the path. */
  write: (name: string, value: unknown) => string
  /** Reports one comparison. */
  expect: (what: string, ok: boolean, figures?: string) => void
}

/** How a finished program ended. */
export type Finished = { code: number | null; signal: NodeJS.Signals | null; stdout: string; stderr: string }

const here = fileURLToPath(new URL("./", import.meta.url))

/** Starts the `peft` command as a direct child, so that a signal reaches it and nothing else. */
export function startPeft(args: string[], blas: string): ChildProcess {
  const env = { ...process.env, PEFT_BLAS: process.env.PEFT_BLAS ?? blas }
  return spawn(process.execPath, [join(repository, "packages/cli/bin/peft.js"), ...args], { env })
}

/** Starts a TypeScript program of this folder. */
export function runScript(script: string, args: string[]): ChildProcess {
  const loader = import.meta.resolve("tsx")
  return spawn(process.execPath, ["--import", loader, join(here, script), ...args])
}

/** Waits for the end of a program and collects what it printed. */
export function finish(child: ChildProcess): Promise<Finished> {
  let stdout = ""
  let stderr = ""
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    stderr += text
  })
  return new Promise((done, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => done({ code, signal, stdout, stderr }))
  })
}

export async function runPeft(args: string[], blas: string): Promise<string> {
  const { code, signal, stdout, stderr } = await finish(startPeft(args, blas))
  if (code === 0) return stdout
  throw new Error(`peft ${args.join(" ")} ended with ${code ?? signal}: ${lastLines(stderr)}`)
}

/** A script of this folder, or one elsewhere by its absolute path, which may import the modules of this folder. */
export async function runPython<T>(python: string, script: string, args: string[]): Promise<T> {
  const env = { ...process.env, HF_HUB_OFFLINE: "1", PYTHONDONTWRITEBYTECODE: "1", PYTHONPATH: here }
  const { code, signal, stdout, stderr } = await finish(spawn(python, [resolve(here, script), ...args], { env }))
  if (code !== 0) throw new Error(`${script} ended with ${code ?? signal}: ${lastLines(stderr)}`)
  return JSON.parse(stdout) as T
}

export function writeJson(folder: string, name: string, value: unknown): string {
  const path = join(folder, name)
  writeFileSync(path, JSON.stringify(value))
  return path
}

export function readJson<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(...path), "utf8")) as T
}

function lastLines(text: string): string {
  return text.trim().split("\n").slice(-6).join(" | ")
}
