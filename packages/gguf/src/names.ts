/** What GGUF calls a tensor, and what the model of Hugging Face calls it (gguf-py's tensor_mapping.py). Knows no file. */

const outside: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
}

const inLayer: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
}

/** Turns of rotary positions by frequency: part of the configuration (config.ts), not of the weights. */
export const ropeFactors = "rope_freqs.weight"

/** "model.layers.0.self_attn.q_proj.weight" of "blk.0.attn_q.weight"; undefined where there is no such tensor in a Llama. */
export function huggingFaceName(name: string): string | undefined {
  const [, layer, part = "", kind] = /^(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)$/.exec(name) ?? []
  const table = layer === undefined ? outside : inLayer
  const module = Object.hasOwn(table, part) ? table[part] : undefined
  if (module === undefined) return undefined
  return layer === undefined ? `${module}.${kind}` : `model.layers.${layer}.${module}.${kind}`
}
