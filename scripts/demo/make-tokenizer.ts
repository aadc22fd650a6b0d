/** A byte-level BPE tokenizer in the files of Hugging Face, learnt from a text. Must not know models. */

const special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
/** How GPT-2 cuts text before merging; `use_regex` of the ByteLevel pre-tokenizer. */
const pieces = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu

const template = `{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' }}{%- if message['role'] == 'assistant' %}{%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}{%- else %}{{- message['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}`

/** The files by name, with a vocabulary of exactly `size` tokens. Throws when the text has no pairs left to merge. */
export function tokenizerFiles(text: string, size: number): Record<string, string> {
  const bytes = byteLetters()
  const { merges } = learn(text, bytes, size - special.length - bytes.length)
  const tokens = [...special, ...[...bytes].sort(), ...merges.map((pair) => pair.join(""))]
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: { ...byteLevel, trim_offsets: false },
    decoder: byteLevel,
    model: {
      type: "BPE",
      ...{ dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null },
      ...{ fuse_unk: false, byte_fallback: false, ignore_merges: false },
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  }
  const settings = {
    ...{ tokenizer_class: "PreTrainedTokenizerFast", model_max_length: 256, clean_up_tokenization_spaces: false },
    ...{ bos_token: null, eos_token: "<|im_end|>", pad_token: "<|endoftext|>", unk_token: null },
  }
  return {
    "tokenizer.json": `${JSON.stringify(tokenizer, null, 1)}\n`,
    "tokenizer_config.json": `${JSON.stringify(settings, null, 2)}\n`,
    "chat_template.jinja": template,
    "generation_config.json": `${JSON.stringify({ eos_token_id: 2, pad_token_id: 0 }, null, 2)}\n`,
  }
}

/** The letter that stands for each byte: itself where it can be printed, else one from 256 on, as in GPT-2. */
function byteLetters(): string[] {
  const printed = (b: number): boolean => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174
  let next = 256
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(printed(b) ? b : next++))
}

/** The most frequent pair of neighbours becomes one token, `count` times; of equals, the first in order of letters. */
function learn(text: string, letters: readonly string[], count: number): { merges: [string, string][] } {
  const seen = new Map<string, number>()
  for (const [piece] of text.matchAll(pieces)) seen.set(piece, (seen.get(piece) ?? 0) + 1)
  const words = [...seen].map(([piece, n]) => ({
    n,
    parts: [...new TextEncoder().encode(piece)].map((b) => letters[b] as string),
  }))
  const merges: [string, string][] = []
  while (merges.length < count) {
    const pairs = new Map<string, number>()
    for (const { n, parts } of words)
      for (let i = 1; i < parts.length; i++) {
        const pair = `${parts[i - 1]} ${parts[i]}`
        pairs.set(pair, (pairs.get(pair) ?? 0) + n)
      }
    const [best] = [...pairs].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    if (!best) throw new Error(`the text gives only ${merges.length} merges of ${count}; ask for a smaller vocabulary`)
    const [left, right] = best[0].split(" ") as [string, string]
    merges.push([left, right])
    for (const word of words)
      for (let i = 1; i < word.parts.length; i++)
        if (word.parts[i - 1] === left && word.parts[i] === right) word.parts.splice(i - 1, 2, left + right)
  }
  return { merges }
}
