/**
 * Continuing one prompt in words: the answer's text as it grows, never with half a character, and its end at a stop string.
 * Knows tokenizers by core's contract; tokens are made by `generate`.
 */
import type { Model, Tokenizer } from "@peftjs/core"
import { PeftError } from "@peftjs/core"
import { endsOf, type GenerateOptions, generate } from "./generate.ts"

export interface GenerateTextOptions extends Omit<GenerateOptions, "ends"> {
  /** Text that ends the answer, wherever tokens begin and end; it is not part of it. A special token may be named too. */
  readonly stop?: readonly string[]
  /** Told every new stretch of the answer; together they are its text. */
  readonly onText?: (text: string) => void
}

export interface GeneratedText {
  /** The answer without special tokens and without the stop string. */
  readonly text: string
  /** All ids that were made. */
  readonly ids: readonly number[]
  /** Why it ended: the end token, a stop string, or maxNewTokens. */
  readonly end: "token" | "stop" | "length"
}

/** Throws E_TOKENIZER without a tokenizer, E_OPTION, and what `generate` throws; then what was told has been told. */
export async function generateText(
  model: Model,
  prompt: readonly number[],
  options: GenerateTextOptions,
): Promise<GeneratedText> {
  const { tokenizer } = model
  const { stop = [], onText, ...rest } = options
  if (!tokenizer) throw new PeftError("E_TOKENIZER", "[models] the model has no tokenizer; use generate, or load one")
  const answer = makeAnswer(tokenizer, stop, onText)
  const [ids = []] = await generate(model, [prompt], { ...rest, ends: (id) => answer.add(id) })
  const text = answer.finish()
  const end = answer.stopped ? "stop" : endsOf(model, options).includes(ids.at(-1) as number) ? "token" : "length"
  return { text, ids, end }
}

export interface Answer {
  /** Takes the next id; true when the answer has ended by a stop string. */
  add(id: number): boolean
  /** Tells what was still held back, and gives the whole text. */
  finish(): string
  readonly stopped: boolean
}

/** Text that grows by ids. Held back: bytes that are no whole character yet, and what may be the beginning of a stop string. */
export function makeAnswer(tokenizer: Tokenizer, stop: readonly string[], onText?: (text: string) => void): Answer {
  if (stop.includes("")) throw new PeftError("E_OPTION", "[models] a stop string is empty; leave it out")
  const ids: number[] = []
  let text = ""
  let told = 0
  let stopped = false
  const tell = (until: number): void => {
    if (until <= told) return
    onText?.(text.slice(told, until))
    told = until
  }
  return {
    add(id) {
      ids.push(id)
      text = tokenizer.decode(ids, { skipSpecialTokens: true })
      const at = firstOf(text, stop)
      const special = stop.includes(tokenizer.decode([id]))
      stopped = at !== undefined || special
      if (at !== undefined) text = text.slice(0, at)
      if (!stopped) tell(settled(text, stop))
      return stopped
    },
    finish() {
      tell(text.length)
      return text
    },
    get stopped() {
      return stopped
    },
  }
}

function firstOf(text: string, stop: readonly string[]): number | undefined {
  const found = stop.map((s) => text.indexOf(s)).filter((at) => at >= 0)
  return found.length === 0 ? undefined : Math.min(...found)
}

/** How much of a text no further token can change or turn into a stop string. */
function settled(text: string, stop: readonly string[]): number {
  const whole = text.replace(/\uFFFD+$/, "")
  let held = 0
  for (const s of stop) {
    for (let n = Math.min(s.length - 1, whole.length); n > held; n--) if (whole.endsWith(s.slice(0, n))) held = n
  }
  return whole.length - held
}
