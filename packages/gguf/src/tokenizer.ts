/**
 * The tokenizer of a GGUF file as the files of a Hugging Face folder: tokenizer.json and tokenizer_config.json.
 * Only byte-level BPE, whose pieces a file holds; of the way text is cut before, it holds a name. Knows no weights.
 */
import { PeftError } from "@peftjs/core"
import { metadataValue } from "./config.ts"
import type { GgufFile } from "./open.ts"

type Piece = Readonly<Record<string, unknown>>

interface Cut {
  /** Pre-tokenizers before the byte level. */
  readonly before: readonly Piece[]
  /** The byte level cuts by GPT-2's expression too. */
  readonly byteLevelCuts: boolean
  readonly normalizer?: Piece
  /** A piece that is a token is taken as it is, whatever merges say. */
  readonly ignoreMerges?: true
  /** The beginning of text gets its token unless the file says otherwise. */
  readonly bos?: true
}

const words = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
const rest = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const splitBy = (regex: string): Piece => ({
  ...{ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false },
})
const digits: Cut = { before: [{ type: "Digits", individual_digits: true }], byteLevelCuts: true }
const llama3: Cut = {
  before: [splitBy(`${words}|\\p{N}{1,3}|${rest}`)],
  byteLevelCuts: false,
  ignoreMerges: true,
  bos: true,
}

/** tokenizer.ggml.pre → how text is cut (llama.cpp's llama-vocab.cpp, and the tokenizer.json of the models it was made of). */
const cuts: Readonly<Record<string, Cut>> = {
  "gpt-2": { before: [], byteLevelCuts: true },
  smollm: digits,
  starcoder: digits,
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  qwen2: { before: [splitBy(`${words}|\\p{N}|${rest}`)], byteLevelCuts: false, normalizer: { type: "NFC" } },
}

/** Kinds of tokens (tokenizer.ggml.token_type) that are found in text before it is cut, and one that stands for nothing. */
const [control, userDefined, unused] = [3, 4, 5]

/** Whether the file has a vocabulary, and `tokenizerFiles` can read it. */
export function vocabulary(file: GgufFile): "missing" | "unreadable" | "readable" {
  const { "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.model": model } = file.metadata
  if (tokens === undefined || model === "no_vocab") return "missing"
  return problemOf(file) === undefined ? "readable" : "unreadable"
}

function problemOf({ metadata }: GgufFile): string | undefined {
  const { "tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre } = metadata
  if (model !== "gpt2")
    return `tokenizer.ggml.model is ${JSON.stringify(model)}; only "gpt2", byte-level BPE, can be read`
  if (Object.hasOwn(cuts, String(pre))) return undefined
  const given = pre === undefined ? "missing" : JSON.stringify(pre)
  return `tokenizer.ggml.pre is ${given}; known are ${Object.keys(cuts).join(", ")}`
}

/** The texts of tokenizer.json and tokenizer_config.json. Throws E_TOKENIZER. */
export function tokenizerFiles(file: GgufFile): ReadonlyMap<string, string> {
  const problem = problemOf(file)
  if (problem !== undefined) throw tokenizerError(file, problem)
  const tokens = listOf<string>(file, "tokens", "string")
  const types = listOf<number>(file, "token_type", "number", tokens.length)
  const merges = listOf<string>(file, "merges", "string")
  const cut = cuts[String(file.metadata["tokenizer.ggml.pre"])] as Cut
  const special = specialTokens(file, tokens)
  const flag = (name: string, otherwise: boolean): boolean =>
    Boolean(file.metadata[`tokenizer.ggml.add_${name}_token`] ?? otherwise)
  const [bos, eos] = [flag("bos", cut.bos === true) && special.bos_token, flag("eos", false) && special.eos_token]
  const definition = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: tokens.flatMap((content, id) =>
      types[id] === control || types[id] === userDefined ? [addedToken(id, content, types[id] === control)] : [],
    ),
    normalizer: cut.normalizer ?? null,
    pre_tokenizer: { type: "Sequence", pretokenizers: [...cut.before, byteLevel(cut.byteLevelCuts)] },
    post_processor: template(bos || undefined, eos || undefined, tokens),
    decoder: byteLevel(true),
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: cut.ignoreMerges === true,
      vocab: Object.fromEntries(tokens.flatMap((token, id) => (types[id] === unused ? [] : [[token, id]]))),
      merges: merges.map((merge) => splitMerge(file, merge)),
    },
  }
  return new Map([
    ["tokenizer.json", JSON.stringify(definition)],
    ["tokenizer_config.json", JSON.stringify({ tokenizer_class: "PreTrainedTokenizerFast", ...special }, null, 2)],
  ])
}

function tokenizerError({ source }: GgufFile, problem: string): PeftError {
  return new PeftError(
    "E_TOKENIZER",
    `[gguf] the tokenizer in ${source.name} cannot be used: ${problem}. Put tokenizer.json and tokenizer_config.json of the original model beside the file`,
  )
}

function listOf<T>(file: GgufFile, name: string, type: "string" | "number", length?: number): readonly T[] {
  const key = `tokenizer.ggml.${name}`
  const list = file.metadata[key]
  if (!Array.isArray(list) || !list.every((item) => typeof item === type))
    throw tokenizerError(file, `${key} is no list of ${type}s`)
  if (length !== undefined && list.length !== length)
    throw tokenizerError(file, `${key} has ${list.length} entries for ${length} tokens`)
  return list
}

/** bos_token and the like. */
function specialTokens(file: GgufFile, tokens: readonly string[]): Readonly<Record<string, string>> {
  const found: Record<string, string> = {}
  for (const [name, key] of [
    ["bos_token", "bos"],
    ["eos_token", "eos"],
    ["unk_token", "unknown"],
    ["pad_token", "padding"],
  ] as const) {
    const token = tokens[Number(metadataValue(file, `tokenizer.ggml.${key}_token_id`) ?? -1)]
    if (token !== undefined) found[name] = token
  }
  return found
}

const addedToken = (id: number, content: string, special: boolean): Piece => ({
  ...{ id, content, special },
  ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
})

const byteLevel = (cuts: boolean): Piece => ({
  ...{ type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: cuts },
})

/** What stands before and behind a text. */
function template(bos: string | undefined, eos: string | undefined, tokens: readonly string[]): Piece {
  const one = (token: string | undefined, type: number): Piece[] =>
    token === undefined ? [] : [{ SpecialToken: { id: token, type_id: type } }]
  const text = (id: string, type: number): Piece[] => [
    ...one(bos, type),
    { Sequence: { id, type_id: type } },
    ...one(eos, type),
  ]
  const used = [bos, eos].filter((token) => token !== undefined)
  return {
    type: "TemplateProcessing",
    single: text("A", 0),
    pair: [...text("A", 0), ...text("B", 1)],
    special_tokens: Object.fromEntries(
      used.map((token) => [token, { id: token, ids: [tokens.indexOf(token)], tokens: [token] }]),
    ),
  }
}

/** "Ġ t" → ["Ġ", "t"]; a piece never holds a space. */
function splitMerge(file: GgufFile, merge: string): readonly [string, string] {
  const at = merge.indexOf(" ")
  if (at > 0 && at < merge.length - 1) return [merge.slice(0, at), merge.slice(at + 1)]
  throw tokenizerError(file, `the merge ${JSON.stringify(merge)} is not two pieces`)
}
