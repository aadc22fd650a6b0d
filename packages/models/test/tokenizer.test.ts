/** Tokenizers and chat templates against transformers: ids, tokens, decoding, rendered conversations, and where the assistant speaks. */
import { readFileSync } from "node:fs"
import { memoryFiles } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { describe, expect, test } from "vitest"
import { loadTokenizer } from "../src/index.ts"
import { folder, json } from "./fixtures.ts"

type Encoded = {
  text: string
  ids: number[]
  ids_without_special_tokens: number[]
  tokens: string[]
  decoded: string
  decoded_skip_special_tokens: string
}
type Chat = {
  messages: { role: string; content: string }[]
  text: string
  input_ids: number[]
  assistant_masks?: number[]
}

describe.each(["chatml", "llama3-style", "sentencepiece-style"])("%s", async (name) => {
  const expected = json(`tokenizers/${name}/expected.json`)
  const tokenizer = await loadTokenizer(nodeFiles(folder(`tokenizers/${name}`)))

  test("special tokens", () => {
    const { size, bosTokenId, eosTokenId, padTokenId } = tokenizer
    expect({ size, bosTokenId, eosTokenId, padTokenId }).toEqual({
      size: expected.vocab_size,
      bosTokenId: expected.bos ?? undefined,
      eosTokenId: expected.eos,
      padTokenId: expected.pad,
    })
  })

  test.each((expected.encode as Encoded[]).map((c) => [c.text, c] as const))("%j", (text, c) => {
    const ids = tokenizer.encode(text)
    expect(ids).toEqual(c.ids)
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(c.ids_without_special_tokens)
    expect(ids.map(tokenizer.token)).toEqual(c.tokens)
    expect(tokenizer.decode(ids)).toBe(c.decoded)
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(c.decoded_skip_special_tokens)
  })

  test.each(((expected.chat ?? []) as Chat[]).map((c) => [c.text, c] as const))("conversation %j", (text, c) => {
    expect(tokenizer.applyChatTemplate(c.messages)).toBe(text)
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(c.input_ids)
    const rendered = tokenizer.renderChat(c.messages)
    expect(rendered.text).toBe(text)
    // The spans are those whose tokens the reference marks.
    const spoken = rendered.assistant?.flatMap(([a, b]) =>
      tokenizer.encode(text.slice(a, b), { addSpecialTokens: false }),
    )
    expect(spoken).toEqual(c.input_ids.filter((_, i) => c.assistant_masks?.[i] === 1))
  })

  test("generation prompts", () => {
    for (const c of (expected.chat_generation_prompt ?? []) as Chat[]) {
      const text = tokenizer.applyChatTemplate(c.messages, { addGenerationPrompt: true })
      expect(text).toBe(c.text)
      expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(c.input_ids)
    }
  })

  test("byte order marks and broken characters", () => {
    const text = "\uFEFFa"
    const whole = tokenizer.encode(text, { addSpecialTokens: false })
    expect(tokenizer.decode(whole).trimStart()).toBe(text.trimStart())
    const bytes = tokenizer.encode("\u{1F3D4}", { addSpecialTokens: false })
    expect(tokenizer.decode(bytes.slice(0, -1))).toContain("\uFFFD")
  })

  test("ids beyond the tokenizer and no ids at all", () => {
    expect(tokenizer.decode([expected.vocab_size + 5])).toBe("")
    expect(tokenizer.decode([])).toBe("")
  })
})

const chatml = readFileSync(folder("tokenizers/chatml/tokenizer.json"))
const encode = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value))
const load = (files: Record<string, unknown>) =>
  loadTokenizer(
    memoryFiles(
      [["tokenizer.json", chatml], ...Object.entries(files).map(([path, v]) => [path, encode(v)] as const)],
      "dir",
    ),
  )
const message = { role: "user", content: "Hi" }

describe("where special tokens and templates come from", () => {
  test("objects, the special tokens map, config.json", async () => {
    const tokenizer = await load({
      "tokenizer_config.json": { eos_token: { content: "<|im_end|>", lstrip: false }, bos_token: null },
      "special_tokens_map.json": { pad_token: "<|endoftext|>", bos_token: "<|im_start|>" },
      "config.json": { bos_token_id: 9, eos_token_id: 9 },
    })
    expect([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.padTokenId]).toEqual([undefined, 2, 0])
    const bare = await load({ "config.json": { eos_token_id: [7, 8] } })
    expect([bare.bosTokenId, bare.eosTokenId]).toEqual([undefined, 7])
  })

  test("settings hold one template or several, the file goes first", async () => {
    const template = (text: string) => `${text}{{ messages[0].content }}{{ eos_token }}`
    const one = await load({ "tokenizer_config.json": { chat_template: template("a"), eos_token: "<|im_end|>" } })
    expect(one.applyChatTemplate([message])).toBe("aHi<|im_end|>")
    const named = [
      { name: "tool_use", template: template("t") },
      { name: "default", template: template("d") },
    ]
    const several = await load({ "tokenizer_config.json": { chat_template: named } })
    expect(several.applyChatTemplate([message])).toBe("dHi")
    const file = await load({ "tokenizer_config.json": { chat_template: named }, "chat_template.jinja": template("f") })
    expect(file.applyChatTemplate([message])).toBe("fHi")
    expect(file.renderChat([message]).assistant).toBeUndefined()
  })
})

describe("mistakes are named", () => {
  test("no template, a broken one, one that refuses", async () => {
    const render = async (template?: string) =>
      (await load(template === undefined ? {} : { "chat_template.jinja": template })).applyChatTemplate([message])
    await expect(render()).rejects.toThrow(/dir has no chat template.*E_CHAT_TEMPLATE/)
    await expect(render("{% if %}")).rejects.toMatchObject({ code: "E_CHAT_TEMPLATE" })
    await expect(render("{{ raise_exception('roles must alternate') }}")).rejects.toThrow(
      /roles must alternate.*E_CHAT_TEMPLATE/,
    )
  })

  test("tokenizer.json", async () => {
    const only = (text: string) => loadTokenizer(memoryFiles([["tokenizer.json", encode(text)]], "dir"))
    await expect(only('{\n"model": oops}')).rejects.toThrow(/dir\/tokenizer\.json, line 2, column 10.*E_JSON/)
    await expect(only("{}")).rejects.toMatchObject({ code: "E_TOKENIZER" })
    await expect(only("3")).rejects.toMatchObject({ code: "E_TOKENIZER" })
    await expect(loadTokenizer(memoryFiles([]))).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND" })
  })

  test("what only shows when the tables are made is said by whoever asks for them", async () => {
    const added = [{ id: 7, content: "<end>" }]
    const definition = { model: { type: "Unheard", vocab: { a: 0, "<pad>": 3 } }, added_tokens: added }
    const settings = { eos_token: "<end>", pad_token: { content: "<pad>" } }
    const files = Object.entries({ "tokenizer.json": definition, "tokenizer_config.json": settings })
    const tokenizer = await loadTokenizer(
      memoryFiles(
        files.map(([name, value]) => [name, encode(JSON.stringify(value))]),
        "dir",
      ),
    )
    expect(tokenizer).toMatchObject({ eosTokenId: 7, padTokenId: 3, bosTokenId: undefined })
    expect(() => tokenizer.encode("a")).toThrow(/dir\/tokenizer\.json is no usable tokenizer.*E_TOKENIZER/)
  })
})
