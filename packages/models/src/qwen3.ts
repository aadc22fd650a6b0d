/**
 * Qwen3 (Yang et al. 2025), the dense models: Llama with a norm over each head's queries and keys, and heads whose size is not tied to the width.
 * Follows transformers' modeling_qwen3.py.
 */
import type { Architecture } from "./architecture.ts"
import { decoder } from "./decoder.ts"
import { qwenWindow } from "./qwen2.ts"

/** model_type "qwen3". */
export const qwen3: Architecture = decoder({
  modelType: "qwen3",
  headDim: () => 128,
  kvHeads: (_, heads) => heads,
  biases(config) {
    const attention = config.flag("attention_bias", false)
    return { qkv: attention, out: attention, mlp: false }
  },
  headNorm: true,
  window: qwenWindow,
})
