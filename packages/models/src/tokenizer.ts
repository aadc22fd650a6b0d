/**
 * A tokenizer from the files of a Hugging Face folder. The work is done by @huggingface/tokenizers; here the files are read,
 * the special tokens found and the mistakes named. Knows no model.
 */
import { Tokenizer as Encoder } from "@huggingface/tokenizers"
import type { ChatMessage, Tokenizer } from "@peftjs/core"
import { PeftError, parseJson } from "@peftjs/core"
import { type FileSource, readText } from "@peftjs/safetensors"
import { correctByteDecoders } from "./byte-decoders.ts"
import { chatTemplate, type RenderedChat } from "./chat-template.ts"

export const tokenizerFile = "tokenizer.json"

/** What files offer beyond core's contract. */
export interface FolderTokenizer extends Tokenizer {
  /** Number of tokens, added ones included. */
  readonly size: number
  /** The token with an id, as it is spelled in the vocabulary. */
  token(id: number): string | undefined
  /** applyChatTemplate that also says where the assistant speaks. Throws E_CHAT_TEMPLATE. */
  renderChat(messages: readonly ChatMessage[], options?: { addGenerationPrompt?: boolean }): RenderedChat
}

type Json = Readonly<Record<string, unknown>>

/**
 * Loads tokenizer.json with tokenizer_config.json, special_tokens_map.json, chat_template.jinja and config.json as far as they exist.
 * The tables for encoding and decoding, which take a hundred times the file, are made when first asked for: rows of ids need none.
 * Throws E_FILE_NOT_FOUND without tokenizer.json, E_JSON, E_TOKENIZER when it cannot be used; so do its functions where that shows later.
 */
export async function loadTokenizer(files: FileSource): Promise<FolderTokenizer> {
  const definition = await readJson(files, tokenizerFile)
  const [settings, map, model] = await Promise.all(
    ["tokenizer_config.json", "special_tokens_map.json", "config.json"].map(async (path) =>
      (await files.has(path)) ? readJson(files, path) : undefined,
    ),
  )
  const config: Json = { ...map, ...settings }
  const where = `${files.name}/${tokenizerFile}`
  const idOf = vocabularyOf(definition, where)
  const encoder = once(() => makeEncoder(definition, config, where))
  const ids = (given: readonly (number | undefined)[]): number[] => given.filter((id) => id !== undefined)
  const variables = specialTokens(config)
  const template = chatTemplate(await templateOf(files, config), variables, files.name)
  /** What the tokenizer says; what config.json says only where the tokenizer's files are silent. */
  const special = (name: string): number | undefined => {
    if (config[name] === undefined) return [model?.[`${name}_id`]].flat().find((id) => typeof id === "number")
    const token = variables[name]
    return token === undefined ? undefined : idOf(token)
  }
  return {
    get size() {
      return encoder().get_vocab().size
    },
    bosTokenId: special("bos_token"),
    eosTokenId: special("eos_token"),
    padTokenId: special("pad_token"),
    token: (id) => encoder().id_to_token(id),
    // The library gives undefined for what neither the vocabulary nor an unknown token covers; Hugging Face drops it.
    encode: (text, { addSpecialTokens = true } = {}) =>
      ids(encoder().encode(text, { add_special_tokens: addSpecialTokens }).ids),
    decode(given, { skipSpecialTokens = false } = {}) {
      // A model's vocabulary may be padded beyond its tokenizer's.
      const known = given.filter((id) => encoder().id_to_token(id) !== undefined)
      return known.length === 0 ? "" : encoder().decode(known, { skip_special_tokens: skipSpecialTokens })
    },
    applyChatTemplate: (messages, options) => template.render(messages, options).text,
    renderChat: template.render,
  }
}

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}

/** Ids of tokens, added ones first, without the tables. Throws E_TOKENIZER for what holds no vocabulary. */
function vocabularyOf(definition: Json, where: string): (token: string) => number | undefined {
  const { vocab } = (definition.model ?? {}) as { vocab?: unknown }
  if (typeof vocab !== "object" || vocab === null)
    throw new PeftError("E_TOKENIZER", `[models] ${where} is no usable tokenizer: it has no model.vocab`)
  const added = (definition.added_tokens ?? []) as readonly { id: number; content: string }[]
  const listed = Array.isArray(vocab) ? (vocab as readonly (readonly [string, number])[]) : undefined
  return (token) => {
    const found = added.find(({ content }) => content === token)
    if (found) return found.id
    if (!listed) return (vocab as Readonly<Record<string, number>>)[token]
    const at = listed.findIndex(([content]) => content === token)
    return at < 0 ? undefined : at
  }
}

async function readJson(files: FileSource, path: string): Promise<Json> {
  const file = `${files.name}/${path}`
  const value = parseJson(await readText(files, path), file)
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json
  throw new PeftError("E_TOKENIZER", `[models] ${file} must hold a JSON object`)
}

function makeEncoder(definition: Json, config: Json, where: string): Encoder {
  try {
    // transformers 5 leaves the text alone unless told otherwise; the library would not.
    const encoder = new Encoder(definition, { clean_up_tokenization_spaces: false, ...config })
    correctByteDecoders(encoder.decoder)
    return encoder
  } catch (cause) {
    throw new PeftError("E_TOKENIZER", `[models] ${where} is no usable tokenizer: ${(cause as Error).message}`, {
      cause,
    })
  }
}

/** bos_token and the like, which are strings or objects with the string inside. */
function specialTokens(config: Json): Record<string, string> {
  const found: Record<string, string> = {}
  for (const name of ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"]) {
    const value = config[name] as { content?: unknown } | string | null | undefined
    const token = typeof value === "string" ? value : value?.content
    if (typeof token === "string") found[name] = token
  }
  return found
}

/** From chat_template.jinja, else from the settings: one template, or several of which "default" is taken. */
async function templateOf(files: FileSource, config: Json): Promise<string | undefined> {
  if (await files.has("chat_template.jinja")) return readText(files, "chat_template.jinja")
  const { chat_template: given } = config
  if (!Array.isArray(given)) return typeof given === "string" ? given : undefined
  const named = given as { name?: unknown; template?: unknown }[]
  const chosen = named.find(({ name }) => name === "default") ?? named[0]
  return typeof chosen?.template === "string" ? chosen.template : undefined
}
