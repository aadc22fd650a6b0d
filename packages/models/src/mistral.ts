/**
 * Mistral (Jiang et al. 2023): Llama with a sliding window in every layer, where the config has one.
 * Follows transformers' modeling_mistral.py and its defaults for keys that are left out.
 */
import type { Architecture } from "./architecture.ts"
import { decoder } from "./decoder.ts"

/** model_type "mistral". */
export const mistral: Architecture = decoder({
  modelType: "mistral",
  headDim: (hidden, heads) => Math.floor(hidden / heads),
  kvHeads: (config, heads) => (config.values.num_key_value_heads === undefined ? 8 : heads),
  biases: () => ({ qkv: false, out: false, mlp: false }),
  window(config) {
    const none = config.values.sliding_window === null
    const window = none ? undefined : config.whole("sliding_window", 4096)
    return () => window
  },
})
