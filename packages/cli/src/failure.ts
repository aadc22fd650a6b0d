/** Turns whatever a command threw into one clear line on stderr. Must not know what the commands do. */
import { isPeftError } from "@peftjs/core"
import { CommanderError } from "commander"
import pc from "picocolors"

/** Whether stacks are wanted; asked of the raw arguments, because parsing itself may be what failed. */
const debug = (): boolean => process.argv.includes("--debug") || Boolean(process.env.PEFT_DEBUG)

/**
 * Prints the error and returns the exit code.
 * Help and version are not failures; everything else is 1, and stdout stays as it was.
 */
export function reportFailure(error: unknown): number {
  // Help that was asked for is a success; help for want of a command is not, but has been printed all the same.
  if (error instanceof CommanderError && (error.exitCode === 0 || error.code === "commander.help"))
    return error.exitCode
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  const line = isPeftError(error) ? message : foreign(error, message)
  process.stderr.write(`${pc.red("peft:")} ${line}\n`)
  if (debug()) process.stderr.write(`${stack}\n${causes(error)}`)
  return 1
}

function foreign(error: unknown, message: string): string {
  if (error instanceof CommanderError)
    return `${message
      .replace(/^error: /, "")
      .trim()
      .replaceAll("\n", " ")} (E_OPTION)`
  return `unexpected failure: ${message}; --debug shows where (E_INTERNAL)`
}

function causes(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  return cause instanceof Error ? `caused by ${cause.stack}\n${causes(cause)}` : ""
}
