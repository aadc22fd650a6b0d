/**
 * Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values, and perhaps a sliding window in the later layers.
 * Follows transformers' modeling_qwen2.py.
 */
import type { Architecture } from "./architecture.ts"
import type { Config } from "./config.ts"
import { decoder } from "./decoder.ts"

/** model_type "qwen2". */
export const qwen2: Architecture = decoder({
  modelType: "qwen2",
  headDim: (hidden, heads) => Math.floor(hidden / heads),
  kvHeads: (_, heads) => heads,
  biases: () => ({ qkv: true, out: false, mlp: false }),
  window: qwenWindow,
})

/** The window of a layer: none unless use_sliding_window; then by layer_types, or from max_window_layers on. */
export function qwenWindow(config: Config): (layer: number) => number | undefined {
  const off = !config.flag("use_sliding_window", false) || config.values.sliding_window === null
  const { layer_types: types } = config.values
  const kinds = ["full_attention", "sliding_attention"]
  if (types != null && !(Array.isArray(types) && types.every((kind) => kinds.includes(kind as string))))
    config.refuse("layer_types", `it must be a list of ${kinds.map((kind) => `"${kind}"`).join(" and ")}`)
  if (off) return () => undefined
  const window = config.whole("sliding_window", 4096)
  const first = config.whole("max_window_layers", 28, 0)
  const slides = (layer: number): boolean =>
    Array.isArray(types) ? types[layer] === "sliding_attention" : layer >= first
  return (layer) => (slides(layer) ? window : undefined)
}
