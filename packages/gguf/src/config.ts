/**
 * config.json of a GGUF file's metadata, in transformers' words. What it must hold, and in which range, is for the model's package to
 * check; here only what would quietly mean another model is refused.
 */
import { PeftError } from "@peftjs/core"
import { readRange, toFloat32, typedView } from "@peftjs/safetensors"
import { quantMethod } from "./formats.ts"
import { isPacked } from "./kinds.ts"
import { ropeFactors } from "./names.ts"
import type { GgufFile } from "./open.ts"

/** general.architecture → class of transformers. In files of "llama" the rows of queries and keys are in another order. */
const architectures: Readonly<Record<string, string>> = {
  llama: "LlamaForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
}

/** The value of one key, 64-bit numbers as numbers and floats at their shortest. */
export function metadataValue({ metadata }: GgufFile, key: string): unknown {
  const value = metadata[key]
  if (typeof value === "bigint") return Number(value)
  return typeof value === "number" && !Number.isInteger(value) ? shortest(value) : value
}

/** "llama". Throws E_MODEL where it is another. */
export function architectureOf(file: GgufFile): string {
  const architecture = String(metadataValue(file, "general.architecture"))
  if (Object.hasOwn(architectures, architecture)) return architecture
  throw new PeftError(
    "E_MODEL",
    `[gguf] ${file.source.name}: general.architecture is ${JSON.stringify(architecture)}; supported are ${Object.keys(architectures).join(", ")}; take a Hugging Face folder of the model`,
  )
}

/** Throws E_MODEL, E_CONFIG (a mixture of experts, a window, frequencies that no formula gives), E_READ. */
export async function configOf(file: GgufFile): Promise<Readonly<Record<string, unknown>>> {
  const architecture = architectureOf(file)
  const own = (key: string): unknown => metadataValue(file, `${architecture}.${key}`)
  for (const [key, what] of [
    ["expert_count", "a mixture of experts"],
    ["attention.sliding_window", "a sliding window"],
  ] as const)
    if (Number(own(key) ?? 0) > 0) throw configError(file, `${architecture}.${key}`, `${what} is not supported`)
  const hidden = Number(own("embedding_length"))
  const heads = Number(own("attention.head_count"))
  const dim = Number(own("attention.key_length") ?? hidden / heads)
  if (own("attention.value_length") !== undefined && own("attention.value_length") !== dim)
    throw configError(file, `${architecture}.attention.value_length`, `values must be as long as keys, ${dim}`)
  const turned = Number(own("rope.dimension_count") ?? dim)
  const token = (name: string): unknown => metadataValue(file, `tokenizer.ggml.${name}_token_id`)
  return withoutUndefined({
    architectures: [architectures[architecture]],
    model_type: architecture,
    hidden_act: "silu",
    hidden_size: own("embedding_length"),
    intermediate_size: own("feed_forward_length"),
    num_hidden_layers: own("block_count"),
    num_attention_heads: own("attention.head_count"),
    num_key_value_heads: own("attention.head_count_kv") ?? own("attention.head_count"),
    head_dim: dim,
    ...(turned === dim ? {} : { partial_rotary_factor: turned / dim }),
    max_position_embeddings: own("context_length"),
    rms_norm_eps: own("attention.layer_norm_rms_epsilon"),
    rope_theta: own("rope.freq_base") ?? 10_000,
    rope_scaling: await ropeScaling(file, architecture, dim),
    vocab_size: file.tensors.get("token_embd.weight")?.shape[0],
    tie_word_embeddings: !file.tensors.has("output.weight"),
    ...(architecture === "llama"
      ? { attention_bias: file.tensors.has("blk.0.attn_q.bias"), mlp_bias: file.tensors.has("blk.0.ffn_up.bias") }
      : {}),
    bos_token_id: token("bos"),
    eos_token_id: token("eos"),
    pad_token_id: token("padding"),
    dtype: "float32",
    quantization_config: [...file.tensors.values()].some(({ kind }) => isPacked(kind))
      ? { quant_method: quantMethod }
      : undefined,
  })
}

/** rope_scaling of config.json: linear as the metadata says it, Llama 3's by the factors it leaves, others by name, for the model to refuse. */
async function ropeScaling(file: GgufFile, architecture: string, dim: number): Promise<object | undefined> {
  const own = (key: string): unknown => metadataValue(file, `${architecture}.rope.${key}`)
  const type = own("scaling.type") ?? (own("scale_linear") === undefined ? "none" : "linear")
  if (file.tensors.has(ropeFactors)) return llama3(file, Number(own("freq_base") ?? 10_000), dim)
  if (type === "none") return undefined
  return { rope_type: type, factor: own("scaling.factor") ?? own("scale_linear") }
}

/** Lengths of the original context that are tried; Llama 3's is 8192. */
const contexts = [8192, 4096, 2048, 16384, 32768]
const [low, high] = [1, 4]

/** The parameters whose formula gives the factors by which the file divides each frequency. Throws E_CONFIG where none does. */
async function llama3(file: GgufFile, theta: number, dim: number): Promise<object> {
  const { kind, shape, start, end } = file.tensors.get(ropeFactors) as NonNullable<
    ReturnType<GgufFile["tensors"]["get"]>
  >
  const refused = (): PeftError =>
    configError(file, ropeFactors, "these are not the frequencies of Llama 3; take a Hugging Face folder of the model")
  if (kind !== "F32" || shape.length !== 1 || shape[0] !== dim / 2) throw refused()
  const factors = toFloat32("F32", typedView("F32", await readRange(file.source, start, end)))
  const factor = factors.reduce((a, b) => Math.max(a, b))
  const context = contexts.find((length) =>
    factors.every((given, i) => {
      const turns = (length * theta ** ((-2 * i) / dim)) / (2 * Math.PI)
      const smooth = (turns - low) / (high - low)
      const expected = turns > high ? 1 : turns < low ? factor : 1 / ((1 - smooth) / factor + smooth)
      return Math.abs(given / expected - 1) < 1e-4
    }),
  )
  if (context === undefined || factor <= 1) throw refused()
  return {
    ...{ rope_type: "llama3", factor, low_freq_factor: low, high_freq_factor: high },
    original_max_position_embeddings: context,
  }
}

function configError({ source, metadata }: GgufFile, key: string, problem: string): PeftError {
  const given = key in metadata ? ` is ${String(metadata[key])}` : ""
  return new PeftError("E_CONFIG", `[gguf] ${source.name}: ${key}${given}; ${problem}`)
}

/** The fewest digits that are the same float32: 0.00001 instead of 0.000009999999747378752. */
function shortest(x: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(x.toPrecision(digits))
    if (Math.fround(short) === Math.fround(x)) return short
  }
  return x
}

function withoutUndefined(values: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))
}
