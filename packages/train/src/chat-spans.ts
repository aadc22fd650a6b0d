/**
 * Where the assistant speaks in a rendered chat. Few templates say so (`{% generation %}`); for the others the chat is rendered
 * up to every turn and compared with the whole. Must not know labels, weights or lengths.
 */
import type { ChatMessage, Tokenizer } from "@peftjs/core"
import { PeftError } from "@peftjs/core"

/** Tokens start … end-1. */
export interface Span {
  readonly start: number
  readonly end: number
}

/**
 * Ids of the rendered chat, and the tokens that are response. `which`: a message index, whose turn and all that follows
 * is the response, with whatever the template puts after it; or "every" turn of the assistant: as the template marks them,
 * else each up to the last end-of-text token it contains (what comes after is the template's, not said by the model).
 *
 * @param options.strict false where a wrong boundary harms nothing: then nothing is thrown
 * @param options.where what to call the row in messages
 * @throws E_LOSS_MASK when the template writes a turn differently once others follow
 */
export function assistantSpans(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  which: number | "every",
  { strict = true, where = "a row" }: { strict?: boolean; where?: string } = {},
): { ids: readonly number[]; spans: readonly Span[] } {
  const text = tokenizer.applyChatTemplate(messages)
  const encode = (part: string): number[] => tokenizer.encode(part, { addSpecialTokens: false })
  const ids = encode(text)
  const rendered = (count: number): string => {
    const before = tokenizer.applyChatTemplate(messages.slice(0, count))
    if (!strict || text.startsWith(before)) return before
    throw new PeftError(
      "E_LOSS_MASK",
      `[train] ${where}: the chat template writes the first ${count} of ${messages.length} messages differently when others follow, so their tokens cannot be told apart; use the loss mask "full"`,
    )
  }
  const tokensBefore = (part: string): number => promptLength(ids, encode(part))
  const start = (turn: number): number => {
    // The header of the turn, where the template announces it, is not said by the model.
    if (turn > 0) rendered(turn)
    const announced = tokenizer.applyChatTemplate(messages.slice(0, turn), { addGenerationPrompt: true })
    return tokensBefore(text.slice(0, commonLength(text, announced)))
  }
  if (which !== "every") return { ids, spans: [{ start: start(which), end: ids.length }] }
  const marked = tokenizer.renderChat?.(messages).assistant
  if (marked && marked.length > 0)
    return {
      ids,
      spans: marked.map(([a, b]) => ({ start: tokensBefore(text.slice(0, a)), end: tokensBefore(text.slice(0, b)) })),
    }
  const spans = messages.flatMap(({ role }, turn): Span[] => {
    if (role !== "assistant") return []
    const from = start(turn)
    const end = turn === messages.length - 1 ? ids.length : tokensBefore(rendered(turn + 1))
    const stop = tokenizer.eosTokenId === undefined ? -1 : ids.lastIndexOf(tokenizer.eosTokenId, end - 1)
    return [{ start: from, end: stop >= from ? stop + 1 : end }]
  })
  return { ids, spans }
}

/** How many leading tokens belong to the prompt alone: one that also holds the beginning of what follows does not. */
export function promptLength(ids: readonly number[], prompt: readonly number[]): number {
  return commonLength(ids, prompt)
}

function commonLength(a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  let n = 0
  while (n < a.length && n < b.length && a[n] === b[n]) n++
  return n
}
