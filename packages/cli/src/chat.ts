/**
 * `peft generate --interactive` on a terminal or a pipe: lines in, answers out as they grow, commands that begin with a slash.
 * Answers go to stdout, everything else to stderr or, on a terminal, around them. Must not know models.
 */
import { createInterface, type Interface } from "node:readline"
import { isPeftError } from "@peftjs/core"
import pc from "picocolors"
import type { Conversation } from "./conversation.ts"
import { reportFailure } from "./failure.ts"
import { interruptedExitCode } from "./interrupt.ts"

const help = `/reset          forget what was said
/system TEXT    give the model a system message and start anew; without TEXT, show it
/exit           leave (also Ctrl-D)
Ctrl-C stops an answer. A line that ends with \\ goes on in the next one; the arrow keys bring back what you typed.`

const note = (text: string): void => void process.stderr.write(`${process.stderr.isTTY ? pc.dim(text) : text}\n`)

/** Talks until the input ends or the user leaves. `first` is answered before anything is read. */
export async function chat(conversation: Conversation, first?: string): Promise<void> {
  const { stdin, stdout } = process
  const terminal = Boolean(stdin.isTTY && stdout.isTTY)
  const lines = createInterface({ input: stdin, ...(terminal ? { output: stdout } : {}), terminal })
  lines.setPrompt(terminal ? "> " : "")
  let answering: AbortController | undefined
  let asked = false
  const interrupt = (): void => {
    if (answering?.signal.aborted) process.exit(interruptedExitCode)
    if (answering) answering.abort()
    else if (asked) lines.close()
    else {
      asked = true
      clearLine(lines)
      note("Ctrl-C again, Ctrl-D or /exit leaves")
      if (terminal) lines.prompt()
    }
  }
  const answer = async (text: string): Promise<void> => {
    const controller = new AbortController()
    answering = controller
    try {
      await tell(conversation, text, controller.signal)
    } finally {
      answering = undefined
    }
  }
  lines.on("SIGINT", interrupt)
  process.on("SIGINT", interrupt)
  try {
    if (terminal) note("/help lists what else can be typed")
    // Made before the first answer: a line that comes while nobody asks for lines would be lost.
    const typed = lines[Symbol.asyncIterator]()
    if (first !== undefined) await answer(first)
    const begun: string[] = []
    for (;;) {
      if (terminal) lines.prompt()
      const { value: line, done } = await typed.next()
      if (done) break
      asked = false
      begun.push(line.replace(/\\$/, ""))
      if (line.endsWith("\\")) continue
      const text = begun.splice(0).join("\n").trim()
      if (text === "/exit" || text === "/quit") break
      if (text.startsWith("/")) command(conversation, text)
      else if (text !== "") await answer(text)
    }
  } finally {
    process.off("SIGINT", interrupt)
    lines.close()
    conversation.free()
  }
}

async function tell(conversation: Conversation, text: string, signal: AbortSignal): Promise<void> {
  let last = "\n"
  const onText = (piece: string): void => {
    process.stdout.write(piece)
    last = piece
  }
  try {
    const end = await conversation.say(text, { onText, signal })
    process.stdout.write("\n")
    if (end === "length") note("cut off; --max-new-tokens allows more")
    if (end === "stopped") note("stopped")
  } catch (error) {
    if (!isPeftError(error)) throw error
    if (!last.endsWith("\n")) process.stdout.write("\n")
    reportFailure(error)
  }
}

function command(conversation: Conversation, text: string): void {
  const [name, rest = ""] = text.split(/\s+(.*)/s)
  if (name === "/reset") {
    conversation.reset()
    note("forgotten")
  } else if (name === "/system" && rest !== "") {
    conversation.reset(rest)
    note("system message set; starting anew")
  } else if (name === "/system") note(conversation.system ?? "no system message")
  else note(name === "/help" ? help : `no command ${name}; /help lists them`)
}

/** Throws away what has been typed of a line. */
function clearLine(lines: Interface): void {
  if (!lines.terminal) return
  lines.write(null, { ctrl: true, name: "e" })
  lines.write(null, { ctrl: true, name: "u" })
  process.stdout.write("\n")
}
