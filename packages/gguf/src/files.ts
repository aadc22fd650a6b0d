/**
 * A GGUF file as a Hugging Face folder that is nowhere written: config.json, the weights and, where its vocabulary can be read, the tokenizer.
 * The file is opened when something is asked for; weights are read in ranges, one tensor at a time. Knows no model.
 */
import { PeftError } from "@peftjs/core"
import { type ByteSource, bytes, type FileSource } from "@peftjs/safetensors"
import { configOf } from "./config.ts"
import { openGguf } from "./open.ts"
import { tokenizerFiles, vocabulary } from "./tokenizer.ts"
import { virtualWeights } from "./virtual-weights.ts"

export interface GgufFilesOptions {
  /** A folder whose tokenizer is taken where that of the file cannot be read. */
  readonly tokenizer?: FileSource
}

/** What the folder holds: how to open each file. */
type Contents = ReadonlyMap<string, () => Promise<ByteSource>>

/**
 * For `loadCausalLM(ggufFiles(source), { formats: ggufFormats, … })`, with bytes of a disk, of memory or of a server that sends ranges.
 * Its functions throw E_GGUF, E_GGUF_TYPE, E_MODEL, E_CONFIG, E_WEIGHTS, E_TOKENIZER, and what reading throws.
 *
 * @param source the file, or what opens it when it is first needed
 */
export function ggufFiles(
  source: ByteSource | { readonly name: string; open(): Promise<ByteSource> },
  options: GgufFilesOptions = {},
): FileSource {
  const { name } = source
  const contents = once(async () => contentsOf("open" in source ? await source.open() : source, options))
  return {
    name,
    has: async (path) => (await contents()).has(path),
    list: async () => [...(await contents()).keys()].sort(),
    async open(path) {
      const open = (await contents()).get(path)
      if (open) return open()
      throw new PeftError("E_FILE_NOT_FOUND", `[gguf] ${path} is not in ${name}, which is a GGUF file`)
    },
  }
}

const settings = ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]

async function contentsOf(source: ByteSource, { tokenizer }: GgufFilesOptions): Promise<Contents> {
  const { name } = source
  const file = await openGguf(source)
  const text = async (path: string, content: string | undefined): Promise<ByteSource> =>
    bytes(`${name}/${path}`, new TextEncoder().encode(content))
  const own = once(async () => tokenizerFiles(file))
  const ownText = (path: string) => async (): Promise<ByteSource> => text(path, (await own()).get(path))
  const found = new Map([
    ["config.json", async () => text("config.json", JSON.stringify(await configOf(file), null, 2))],
    ["model.safetensors", async () => virtualWeights(file, `${name}/model.safetensors`)],
  ])
  const chat = file.metadata["tokenizer.chat_template"]
  if (typeof chat === "string") found.set("chat_template.jinja", () => text("chat_template.jinja", chat))
  const known = vocabulary(file)
  if (known !== "readable" && (await tokenizer?.has("tokenizer.json"))) {
    for (const path of ["tokenizer.json", ...settings])
      if (await tokenizer?.has(path)) found.set(path, () => (tokenizer as FileSource).open(path))
    return found
  }
  // One that cannot be read is there all the same, so that whoever asks for it is told why.
  if (known !== "missing") found.set("tokenizer.json", ownText("tokenizer.json"))
  if (known === "readable") found.set("tokenizer_config.json", ownText("tokenizer_config.json"))
  return found
}

/** Made when it is first asked for; a failure is forgotten. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => {
    made ??= make().catch((error) => {
      made = undefined
      throw error
    })
    return made
  }
}
