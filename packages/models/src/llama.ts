/**
 * Llama (Touvron et al. 2023; Dubey et al. 2024): Llama 2 and 3, SmolLM2, TinyLlama and whatever else has model_type "llama".
 * Follows transformers' modeling_llama.py.
 */
import type { Architecture } from "./architecture.ts"
import { decoder } from "./decoder.ts"

const family: Architecture = decoder({
  modelType: "llama",
  headDim: (hidden, heads) => Math.floor(hidden / heads),
  kvHeads: (_, heads) => heads,
  biases(config) {
    const attention = config.flag("attention_bias", false)
    return { qkv: attention, out: attention, mlp: config.flag("mlp_bias", false) }
  },
  window: () => () => undefined,
})

/** model_type "llama". */
export const llama: Architecture = {
  ...family,
  blueprint(config) {
    const heads = config.whole("num_attention_heads")
    if (config.whole("hidden_size") % heads !== 0)
      config.refuse("hidden_size", `it must be a multiple of num_attention_heads, ${heads}`)
    return family.blueprint(config)
  },
}
