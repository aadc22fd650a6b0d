/** A Llama (or Qwen) of a few thousand parameters as a Hugging Face folder, and the same model as a GGUF file, made as llama.cpp's converter makes it. */
import { cpu } from "@peftjs/backend-cpu"
import { initCausalLM, saveModel } from "@peftjs/models"
import { fromFloat32, type MemoryFiles, memoryFiles, parseSafetensors, toFloat32 } from "@peftjs/safetensors"
import { ggufBytes, type Written } from "./writer.ts"

export const config = {
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  vocab_size: 64,
  tie_word_embeddings: true,
  // So wide that every part of the model shows in the logits.
  initializer_range: 0.4,
}

export const metadata = {
  "general.architecture": "llama",
  "llama.block_count": 2,
  "llama.context_length": 128,
  "llama.embedding_length": 64,
  "llama.feed_forward_length": 96,
  "llama.attention.head_count": 4,
  "llama.attention.head_count_kv": 2,
  "llama.rope.freq_base": 10_000,
  "llama.attention.layer_norm_rms_epsilon": 1e-5,
}

/** The folder of a random model. */
export async function folder(over: object = {}): Promise<MemoryFiles> {
  const files = memoryFiles()
  await saveModel(initCausalLM({ ...config, ...over }, { backend: await cpu(), seed: 3 }), files)
  return files
}

const bytes = (data: ArrayBufferView): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

/** ggml types by name, and how values become one. */
export const types = { F32: 0, F16: 1, BF16: 30 } as const

const parts: readonly (readonly [string, string])[] = [
  ["model.embed_tokens", "token_embd"],
  ["model.norm", "output_norm"],
  ["lm_head", "output"],
  ["self_attn.q_proj", "attn_q"],
  ["self_attn.k_proj", "attn_k"],
  ["self_attn.v_proj", "attn_v"],
  ["self_attn.o_proj", "attn_output"],
  ["self_attn.q_norm", "attn_q_norm"],
  ["self_attn.k_norm", "attn_k_norm"],
  ["input_layernorm", "attn_norm"],
  ["post_attention_layernorm", "ffn_norm"],
  ["mlp.gate_proj", "ffn_gate"],
  ["mlp.up_proj", "ffn_up"],
  ["mlp.down_proj", "ffn_down"],
]

const ggufName = (name: string): string =>
  parts.reduce((given, [theirs, ours]) => given.replace(theirs, ours), name.replace("model.layers", "blk"))

/** How a matrix is written; its values as dense, unless told otherwise. */
export type Encode = (name: string, values: Float32Array, shape: readonly number[]) => Written | undefined

export const dense =
  (type: keyof typeof types): Encode =>
  (_, values, shape) => ({ type: types[type], shape, data: bytes(fromFloat32(type, values)) })

/** The tensors of a folder under GGUF's names, with the rows of queries and keys in the order of llama.cpp. */
export function tensorsOf(files: MemoryFiles, encode: Encode, permuted = true): Record<string, Written> {
  const { tensors } = parseSafetensors(files.files.get("model.safetensors") as Uint8Array)
  const out: Record<string, Written> = {}
  for (const [name, { dtype, shape, data }] of tensors) {
    const values = toFloat32(dtype, data)
    const heads = !permuted ? 0 : name.includes("q_proj") ? 4 : name.includes("k_proj") ? 2 : 0
    const ordered = heads > 0 ? permute(values, heads, shape[0] as number) : values
    const as = shape.length === 1 ? dense("F32") : encode
    out[ggufName(name)] = as(name, ordered, shape) ?? (dense("F32")(name, ordered, shape) as Written)
  }
  return out
}

/** LlamaModel.permute of convert_hf_to_gguf.py: reshape(heads, 2, rows / heads / 2, columns).swapaxes(1, 2). */
function permute(values: Float32Array, heads: number, rows: number): Float32Array {
  const columns = values.length / rows
  const half = rows / heads / 2
  const out = new Float32Array(values.length)
  let to = 0
  for (let head = 0; head < heads; head++)
    for (let i = 0; i < half; i++)
      for (const j of [0, 1]) {
        const row = (head * 2 + j) * half + i
        out.set(values.subarray(row * columns, (row + 1) * columns), to)
        to += columns
      }
  return out
}

/** The random model as a GGUF file. */
export async function tinyGguf(encode: Encode = dense("F32"), over: object = {}): Promise<Uint8Array> {
  return ggufBytes({ ...metadata, ...over }, tensorsOf(await folder(), encode))
}
