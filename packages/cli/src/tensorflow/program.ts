/** Runs a program that a setup needs. Its words go to stderr while it runs; the last of them into the error when it fails. */
import { spawn } from "node:child_process"
import { PeftError } from "@peftjs/core"

export interface ProgramOptions {
  readonly cwd?: string
  readonly env?: NodeJS.ProcessEnv
  /** What to do when the program is not there: "install g++". */
  readonly otherwise: string
}

/** Throws E_SETUP when the program is missing or fails. */
export async function runProgram(
  command: string,
  args: readonly string[],
  { cwd, env, otherwise }: ProgramOptions,
): Promise<void> {
  const child = spawn(command, args, {
    ...(cwd ? { cwd } : {}),
    ...(env ? { env } : {}),
    stdio: ["ignore", "pipe", "pipe"],
  })
  let said = ""
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-4000)
      process.stderr.write(text)
    })
  const status = await new Promise<number | NodeJS.Signals | NodeJS.ErrnoException>((done) => {
    child.on("error", done).on("close", (code, signal) => done(code ?? signal ?? 1))
  })
  if (status === 0) return
  if (status instanceof Error && status.code === "ENOENT")
    throw new PeftError("E_SETUP", `[cli] ${command} is needed and is not there: ${otherwise}`, { cause: status })
  const last = said.trim().split("\n").filter(Boolean).slice(-3).join("; ")
  throw new PeftError(
    "E_SETUP",
    `[cli] ${command} ${args.slice(0, 3).join(" ")} … failed (${status instanceof Error ? status.message : status}): ${last || "it said nothing"}; run "peft setup cuda" again when that is mended, it goes on where it stopped`,
  )
}
