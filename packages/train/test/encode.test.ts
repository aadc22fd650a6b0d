/** Masks, labels and padded batches against what transformers made of the same chats. */
import type { Tokenizer } from "@peftjs/core"
import { loadTokenizer } from "@peftjs/models"
import { nodeFiles } from "@peftjs/safetensors/node"
import { describe, expect, it } from "vitest"
import { collate, type Encoded, type EncodeOptions, encodeRow, jsonl, type Row } from "../src/index.ts"
import { fixture, readJson } from "./helpers.ts"

interface Chat {
  readonly messages: { role: string; content: string }[]
  readonly input_ids: number[]
  readonly labels_assistant: number[]
  readonly labels_completion: number[]
  readonly prompt_length: number
}

interface Recorded {
  readonly chat: Chat[]
  readonly batches: {
    readonly side: "left" | "right"
    readonly max_length: number | null
    readonly input_ids: number[][]
    readonly attention_mask: number[][]
    readonly labels: number[][]
    readonly note?: string
  }[]
}

const rowOf = (row: unknown): Row => jsonl([row]).rows[0] as Row
const encode = (row: unknown, tokenizer: Tokenizer, options: EncodeOptions = {}): Encoded =>
  encodeRow(rowOf(row), tokenizer, { maxLength: 10_000, ...options })

const folders = ["chatml", "llama3-style"]
const opened = await Promise.all(
  folders.map(async (name) => {
    const tokenizer = await loadTokenizer(nodeFiles(fixture(`tokenizers/${name}`)))
    // A template whose generation blocks are not reported, as most have none.
    const { renderChat: _, ...unmarked } = tokenizer
    const recorded = readJson(`tokenizers/${name}/expected.json`) as Recorded
    return { name, tokenizer, unmarked: unmarked as Tokenizer, recorded }
  }),
)

describe.each(opened)("$name", ({ tokenizer, unmarked, recorded }) => {
  it.each(recorded.chat.map((chat, i) => [i, chat] as const))(
    "chat %i: ids, completion and assistant labels",
    (_, chat) => {
      const completion = encode({ messages: chat.messages }, tokenizer)
      expect(completion.ids).toEqual(chat.input_ids)
      expect(completion.labels).toEqual(chat.labels_completion)
      expect(completion.response.indexOf(true)).toBe(chat.prompt_length)
      expect(encode({ messages: chat.messages }, tokenizer, { lossMask: "assistant" }).labels).toEqual(
        chat.labels_assistant,
      )
      expect(encode({ messages: chat.messages }, tokenizer, { lossMask: "full" }).labels).toEqual(chat.input_ids)
    },
  )

  it("finds the assistant's turns by rendering when the template does not mark them", () => {
    for (const { messages, labels_assistant } of recorded.chat)
      expect(encode({ messages }, unmarked, { lossMask: "assistant" }).labels).toEqual(labels_assistant)
  })

  it.each(recorded.batches.map((batch, i) => [i, batch] as const))("padded batch %i", (_, batch) => {
    const maxLength = batch.max_length ?? 10_000
    const rows = recorded.chat.map(({ messages }) =>
      encode({ messages }, tokenizer, { lossMask: "assistant", maxLength }),
    )
    const pad = batch.note?.startsWith("pad token = eos") ? tokenizer.eosTokenId : tokenizer.padTokenId
    const ours = collate(rows, pad as number, batch.side)
    expect([...ours.ids]).toEqual(batch.input_ids.flat())
    expect([...ours.mask]).toEqual(batch.attention_mask.flat())
    expect([...ours.labels]).toEqual(batch.labels.flat())
    const counted = batch.labels.flatMap((row) => row.slice(1).filter((label) => label !== -100))
    expect(ours.weight).toBe(counted.length)
  })

  it("question and answer are a chat of user and assistant", () => {
    const chat = recorded.chat[0] as Chat
    const [question, answer] = chat.messages.map(({ content }) => content)
    expect(encode({ question, answer }, tokenizer).labels).toEqual(chat.labels_completion)
    const [user, assistant] = chat.messages
    expect(encode({ prompt: [user], completion: [assistant] }, tokenizer).labels).toEqual(chat.labels_completion)
  })

  it("weights the prompt when asked to", () => {
    const { messages, input_ids, prompt_length } = recorded.chat[0] as Chat
    const { labels, weights, response } = encode({ messages }, tokenizer, { promptLossWeight: 0.25 })
    expect(labels).toEqual(input_ids)
    expect(weights).toEqual(input_ids.map((_, i) => (i < prompt_length ? 0.25 : 1)))
    expect(response.filter(Boolean)).toHaveLength(input_ids.length - prompt_length)
  })

  it("refuses a conversation without an answer, except under the full mask", () => {
    const messages = [{ role: "user", content: "Hello" }]
    expect(() => encode({ messages }, tokenizer)).toThrow(/ends with the role "user".*E_LOSS_MASK/)
    expect(encode({ messages }, tokenizer, { lossMask: "full" }).labels).not.toContain(-100)
  })
})

/** Letters are tokens, except that "ab" is one; 0 ends a text, 1 begins one. */
const letters: Tokenizer = {
  eosTokenId: 0,
  padTokenId: 0,
  bosTokenId: 1,
  encode: (text, { addSpecialTokens = true } = {}) => {
    const ids = [...text.matchAll(/ab|./gs)].map(([token]) => (token === "ab" ? 2 : token.charCodeAt(0)))
    return addSpecialTokens ? [1, ...ids] : ids
  },
  decode: () => "",
  applyChatTemplate: (messages, { addGenerationPrompt = false } = {}) =>
    messages
      .map(({ role, content }, i) => `${role[0]}:${i < messages.length - 1 ? content.toUpperCase() : content}`)
      .join("") + (addGenerationPrompt ? "a:" : ""),
}

describe("texts", () => {
  const c = (letter: string): number => letter.charCodeAt(0)

  it("prompt and completion: joined, ended, prompt masked", () => {
    const { ids, labels } = encode({ prompt: "x", completion: "yz" }, letters)
    expect(ids).toEqual([1, c("x"), c("y"), c("z"), 0])
    expect(labels).toEqual([-100, -100, c("y"), c("z"), 0])
  })

  it("a token that holds the end of the prompt and the beginning of the completion is learnt", () => {
    const { ids, labels } = encode({ prompt: "xa", completion: "by" }, letters)
    expect(ids).toEqual([1, c("x"), 2, c("y"), 0])
    expect(labels).toEqual([-100, -100, 2, c("y"), 0])
  })

  it("text: everything, and the end although it is the padding too", () => {
    expect(encode({ text: "xy" }, letters).labels).toEqual([1, c("x"), c("y"), 0])
  })

  it("cuts at maxLength from the right", () => {
    const { ids, labels } = encode({ prompt: "xyz", completion: "w" }, letters, { maxLength: 4 })
    expect([ids, labels]).toEqual([
      [1, c("x"), c("y"), c("z")],
      [-100, -100, -100, -100],
    ])
  })

  it("ready ids keep their labels and mask; without labels everything not masked is learnt", () => {
    const row = { input_ids: [5, 6, 7], labels: [-100, -100, 7], attention_mask: [0, 1, 1] }
    const { labels, mask, response } = encode(row, letters, { lossMask: "full" })
    expect([labels, mask, response]).toEqual([
      [-100, -100, 7],
      [0, 1, 1],
      [false, false, true],
    ])
    expect(encode({ input_ids: [5, 6, 7], attention_mask: [0, 1, 1] }, letters).labels).toEqual([-100, 6, 7])
  })

  it("refuses a template that rewrites earlier turns, since their tokens cannot be found", () => {
    const messages = ["u", "a", "u", "a"].map((role) => ({ role: role === "u" ? "user" : "assistant", content: "hi" }))
    expect(() => encode({ messages }, letters, { lossMask: "assistant" })).toThrow(/differently.*E_LOSS_MASK/)
    expect(encode({ messages }, letters, { lossMask: "full" }).labels).not.toContain(-100)
  })

  it("says that a tokenizer is missing, and which row is empty", () => {
    expect(() => encodeRow(rowOf({ text: "a" }), undefined, {}, "d, row 3")).toThrow(/d, row 3.*E_TOKENIZER/)
    const silent = { ...letters, eosTokenId: undefined, encode: () => [] }
    expect(() => encodeRow(rowOf({ text: "" }), silent, {}, "d, row 3")).toThrow(/d, row 3.*E_DATA_ROW/)
  })
})
