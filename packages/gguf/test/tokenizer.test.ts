/** The vocabulary of a GGUF file as tokenizer.json: encoding, special tokens, chat template, and what cannot be read. */
import { loadTokenizer } from "@peftjs/models"
import { bytes, type FileSource, memoryFiles, readText } from "@peftjs/safetensors"
import { expect, it } from "vitest"
import { ggufFiles } from "../src/index.ts"
import { ggufBytes } from "./writer.ts"

const tokens = ["<s>", "</s>", "a", "b", "1", "2", "3", "Ġ", "ab", "Ġa", "12", "123", "<tool>", "[PAD]", "Ġab"]
const vocabulary = {
  "general.architecture": "llama",
  "tokenizer.ggml.model": "gpt2",
  "tokenizer.ggml.pre": "gpt-2",
  "tokenizer.ggml.tokens": tokens,
  "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5, 1],
  "tokenizer.ggml.merges": ["a b", "Ġ a", "1 2", "12 3", "Ġ ab"],
  "tokenizer.ggml.bos_token_id": 0,
  "tokenizer.ggml.eos_token_id": 1,
}
const filesOf = (over: object = {}, tokenizer?: FileSource): FileSource => {
  const source = bytes("tiny.gguf", ggufBytes({ ...vocabulary, ...over }, {}))
  return ggufFiles(source, tokenizer ? { tokenizer } : {})
}
const names = (ids: readonly number[]): string[] => ids.map((id) => tokens[id] as string)

it("encodes, decodes and knows its special tokens", async () => {
  const tokenizer = await loadTokenizer(
    filesOf({ "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}" }),
  )
  expect(names(tokenizer.encode("ab ab12<s>a"))).toEqual(["ab", "Ġab", "12", "<s>", "a"])
  expect(tokenizer.decode([0, 8, 14, 12], { skipSpecialTokens: true })).toBe("ab ab<tool>")
  expect([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.padTokenId]).toEqual([0, 1, undefined])
  expect(tokenizer.applyChatTemplate([{ role: "user", content: "a" }])).toBe("<s>a")
  expect(tokenizer.token(13)).toBeUndefined()
})

it.each([
  ["gpt-2", ["123", "Ġa"]],
  ["smollm", ["1", "2", "3", "Ġa"]],
  ["llama-bpe", ["<s>", "123", "Ġa"]],
  ["qwen2", ["1", "2", "3", "Ġa"]],
])("cuts text as %s does", async (pre, expected) => {
  const tokenizer = await loadTokenizer(filesOf({ "tokenizer.ggml.pre": pre }))
  expect(names(tokenizer.encode("123 a"))).toEqual(expected)
})

it("begins and ends text as the file says", async () => {
  const encoded = async (over: object): Promise<string[]> => names((await loadTokenizer(filesOf(over))).encode("a"))
  expect(await encoded({ "tokenizer.ggml.add_bos_token": true })).toEqual(["<s>", "a"])
  expect(await encoded({ "tokenizer.ggml.add_eos_token": true })).toEqual(["a", "</s>"])
  expect(await encoded({ "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": false })).toEqual(["a"])
})

it.each([
  ["sentencepiece", { "tokenizer.ggml.model": "llama" }, /tokenizer.ggml.model is "llama".*tokenizer.json.*beside/],
  ["an unknown way to cut", { "tokenizer.ggml.pre": "tekken" }, /tokenizer.ggml.pre is "tekken".*known are gpt-2/],
  ["no way to cut", { "tokenizer.ggml.pre": "default" }, /tokenizer.ggml.pre is "default"/],
  ["a merge of one piece", { "tokenizer.ggml.merges": ["ab"] }, /merge "ab"/],
  ["tokens that are numbers", { "tokenizer.ggml.tokens": [1] }, /tokenizer.ggml.tokens is no list of strings/],
  ["too few types", { "tokenizer.ggml.token_type": [1] }, /token_type has 1 entries for 15 tokens/],
])("%s is refused, and said why", async (_, over, message) => {
  await expect(loadTokenizer(filesOf(over))).rejects.toMatchObject({
    code: "E_TOKENIZER",
    message: expect.stringMatching(message),
  })
})

it("takes another folder's tokenizer where its own cannot be read, and only there", async () => {
  const own = filesOf()
  const other = memoryFiles()
  for (const path of ["tokenizer.json", "tokenizer_config.json"])
    await other.write(path, [new TextEncoder().encode((await readText(own, path)).replaceAll("<tool>", "<other>"))])
  const taken = await loadTokenizer(filesOf({ "tokenizer.ggml.model": "llama" }, other))
  expect(taken.token(12)).toBe("<other>")
  expect((await loadTokenizer(filesOf({}, other))).token(12)).toBe("<tool>")
})

it("a file without a vocabulary has no tokenizer", async () => {
  const files = ggufFiles(bytes("tiny.gguf", ggufBytes({ "general.architecture": "llama" }, {})))
  expect(await files.has("tokenizer.json")).toBe(false)
  expect(await files.list?.()).toEqual(["config.json", "model.safetensors"])
  await expect(files.open("tokenizer.json")).rejects.toMatchObject({ code: "E_FILE_NOT_FOUND" })
})
