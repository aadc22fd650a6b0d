/**
 * One example as token ids with the labels that count. Must not know batches or where rows come from.
 * Tokens come from encoding the whole text once; prompts are encoded only to find out how many of those tokens are theirs.
 */
import type { ChatMessage, Tokenizer } from "@peftjs/core"
import { PeftError } from "@peftjs/core"
import { assistantSpans, promptLength, type Span } from "./chat-spans.ts"
import type { Row } from "./rows.ts"

/**
 * Which tokens are learnt from. `completion`: everything after the prompt (of a chat: after the last turn's header).
 * `assistant`: every turn of the assistant up to its end-of-turn token. `full`: all tokens.
 */
export type LossMask = "completion" | "assistant" | "full"

export const lossMasks: readonly LossMask[] = ["completion", "assistant", "full"]

export interface EncodeOptions {
  /** Default "completion". */
  readonly lossMask?: LossMask
  /** Tokens kept of each row, from the left; default 256. */
  readonly maxLength?: number
  /** Weight of the tokens outside the mask, 0…1; default 0, which leaves them out. */
  readonly promptLossWeight?: number
}

/** A row ready for a batch. All lists have one entry per token. */
export interface Encoded {
  readonly ids: readonly number[]
  /** The id itself where it is learnt, -100 elsewhere. */
  readonly labels: readonly number[]
  /** How much a label counts; without it, 1. */
  readonly weights?: readonly number[]
  /** True for tokens of the response, which `response_loss` is the mean over, whatever the mask. */
  readonly response: readonly boolean[]
  /** attention_mask as given. */
  readonly mask?: readonly number[]
}

/**
 * Turns a row into ids and labels. Chats are rendered by the tokenizer's template; texts get the end-of-text token.
 *
 * @throws E_TOKENIZER when there is none and the row holds text, E_LOSS_MASK when the template hides where turns begin,
 * E_CHAT_TEMPLATE from the tokenizer, E_DATA_ROW for an empty text
 */
export function encodeRow(
  row: Row,
  tokenizer: Tokenizer | undefined,
  options: EncodeOptions = {},
  where = "a row",
): Encoded {
  const { lossMask = "completion", maxLength = 256, promptLossWeight = 0 } = options
  const { ids, spans, labels, mask } = tokensOf(row, tokenizer, lossMask, where)
  const kept = ids.slice(0, maxLength)
  const response = kept.map((_, i) => (labels ? labels[i] !== -100 : spans.some((s) => i >= s.start && i < s.end)))
  const learnt = (i: number): boolean =>
    (lossMask === "full" && !labels) || response[i] === true || promptLossWeight > 0
  const hidden = (i: number): boolean => (labels ? labels[i] === -100 : mask?.[i] === 0)
  const weighted = promptLossWeight > 0 && lossMask !== "full" && !labels
  return {
    ids: kept,
    labels: kept.map((id, i) => (hidden(i) || !learnt(i) ? -100 : (labels?.[i] ?? id))),
    ...(weighted ? { weights: response.map((r) => (r ? 1 : promptLossWeight)) } : {}),
    response,
    ...(mask ? { mask: mask.slice(0, maxLength) } : {}),
  }
}

interface Tokens {
  readonly ids: readonly number[]
  /** Where the response is. */
  readonly spans: readonly Span[]
  /** Given with the row: they decide alone. */
  readonly labels?: readonly number[]
  readonly mask?: readonly number[]
}

function tokensOf(row: Row, given: Tokenizer | undefined, lossMask: LossMask, where: string): Tokens {
  if (row.kind === "ids") return { ...row, spans: [{ start: 0, end: row.ids.length }] }
  const tokenizer = given ?? noTokenizer(where)
  if (row.kind === "text") return whole(withEos(tokenizer.encode(row.text), tokenizer), 0, where)
  if (row.kind === "completion") {
    const ids = tokenizer.encode(row.prompt + row.completion)
    return whole(withEos(ids, tokenizer), promptLength(ids, tokenizer.encode(row.prompt)), where)
  }
  const messages = row.kind === "chat" ? [...row.prompt, ...row.completion] : row.messages
  if (lossMask === "assistant") return assistantSpans(tokenizer, messages, "every", { where })
  const strict = lossMask !== "full"
  const prompt = row.kind === "chat" ? row.prompt.length : messages.length - 1
  if (strict && row.kind === "messages") requireAnswer(messages, where)
  return assistantSpans(tokenizer, messages, prompt, { strict, where })
}

function whole(ids: readonly number[], start: number, where: string): Tokens {
  if (ids.length > 0) return { ids, spans: [{ start, end: ids.length }] }
  throw new PeftError("E_DATA_ROW", `[train] ${where} is an empty text, which is no tokens; leave it out`)
}

function withEos(ids: readonly number[], { eosTokenId }: Tokenizer): readonly number[] {
  return eosTokenId === undefined || ids.at(-1) === eosTokenId ? ids : [...ids, eosTokenId]
}

function requireAnswer(messages: readonly ChatMessage[], where: string): void {
  const role = messages.at(-1)?.role
  if (role === "assistant") return
  throw new PeftError(
    "E_LOSS_MASK",
    `[train] ${where} ends with the role "${role}", so it has no completion; end it with the assistant or use another loss mask`,
  )
}

function noTokenizer(where: string): never {
  throw new PeftError(
    "E_TOKENIZER",
    `[train] ${where} holds text but the model has no tokenizer; pass one, or rows with "input_ids"`,
  )
}
