/**
 * Llama (Touvron et al. 2023; Dubey et al. 2024): Llama 2 and 3, SmolLM2, TinyLlama and whatever else has model_type "llama".
 * Written as transformers' modeling_llama.py computes it, in [batch, tokens, heads, dim] so that reshaping is all that heads need.
 * Attention dropout is not applied: every released config has it at 0.
 */
import type { Run, Tensor } from "@peftjs/core"
import { attention, call, input, map, rmsNorm, rope, tensor } from "@peftjs/core"
import type { Architecture, Blueprint, ParamSpec, SiteSpec } from "./architecture.ts"
import type { Config } from "./config.ts"
import { rotaryFrequencies, rotaryTables } from "./rotary.ts"
import { positionsOf, validKeys } from "./sequence.ts"

const embedding = "model.embed_tokens"
const head = "lm_head"
const norm = "model.norm.weight"
const layerPath = (layer: number): string => `model.layers.${layer}`
const gated = call("mul", call("mul", input(0), call("sigmoid", input(0))), input(1))

interface Sizes {
  readonly vocab: number
  readonly hidden: number
  readonly inner: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly dim: number
  readonly attentionBias: boolean
  readonly mlpBias: boolean
  readonly tied: boolean
}

/** model_type "llama". */
export const llama: Architecture = {
  modelType: "llama",
  blueprint(config) {
    const sizes = sizesOf(config)
    const eps = config.positive("rms_norm_eps", 1e-6)
    const std = config.positive("initializer_range", 0.02)
    const frequencies = rotaryFrequencies(config, sizes.dim)
    const ignored = sizes.tied ? /rotary_emb\.inv_freq$|^lm_head\.weight$/ : /rotary_emb\.inv_freq$/
    return { ...layersOf(sizes, config), head, ignored, std, hidden: forward(sizes, frequencies, eps) }
  },
}

function sizesOf(config: Config): Sizes {
  const hidden = config.whole("hidden_size")
  const heads = config.whole("num_attention_heads")
  const kvHeads = config.whole("num_key_value_heads", heads)
  const dim = config.whole("head_dim", Math.floor(hidden / heads))
  if (hidden % heads !== 0) config.refuse("hidden_size", `it must be a multiple of num_attention_heads, ${heads}`)
  if (heads % kvHeads !== 0) config.refuse("num_key_value_heads", `it must divide num_attention_heads, ${heads}`)
  if (config.text("hidden_act", "silu") !== "silu") config.refuse("hidden_act", `only "silu" is supported`)
  return {
    vocab: config.whole("vocab_size"),
    hidden,
    inner: config.whole("intermediate_size"),
    layers: config.whole("num_hidden_layers"),
    heads,
    kvHeads,
    dim,
    attentionBias: config.flag("attention_bias", false),
    mlpBias: config.flag("mlp_bias", false),
    tied: config.flag("tie_word_embeddings", false),
  }
}

function layersOf(sizes: Sizes, config: Config): Pick<Blueprint, "params" | "sites"> {
  const { vocab, hidden, inner, heads, kvHeads, dim, tied } = sizes
  const params = new Map<string, ParamSpec>()
  const sites: SiteSpec[] = []
  const linear = (path: string, out: number, width: number, bias: boolean): void => {
    params.set(`${path}.weight`, { shape: [out, width], init: "normal" })
    if (bias) params.set(`${path}.bias`, { shape: [out], init: "zeros" })
    const site = { path, kind: "linear" as const, in: width, out, param: `${path}.weight` }
    sites.push(bias ? { ...site, bias: `${path}.bias` } : site)
  }
  const table = `${embedding}.weight`
  const paddingId = config.values.pad_token_id == null ? undefined : config.whole("pad_token_id", 0, 0)
  const lookUp = { path: embedding, kind: "embedding" as const, in: vocab, out: hidden, param: table }
  params.set(table, {
    shape: [vocab, hidden],
    init: "normal",
    ...(paddingId === undefined ? {} : { zeroRow: paddingId }),
  })
  sites.push(paddingId === undefined ? lookUp : { ...lookUp, paddingId })
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = layerPath(layer)
    params.set(`${at}.input_layernorm.weight`, { shape: [hidden], init: "ones" })
    linear(`${at}.self_attn.q_proj`, heads * dim, hidden, sizes.attentionBias)
    linear(`${at}.self_attn.k_proj`, kvHeads * dim, hidden, sizes.attentionBias)
    linear(`${at}.self_attn.v_proj`, kvHeads * dim, hidden, sizes.attentionBias)
    linear(`${at}.self_attn.o_proj`, hidden, heads * dim, sizes.attentionBias)
    params.set(`${at}.post_attention_layernorm.weight`, { shape: [hidden], init: "ones" })
    linear(`${at}.mlp.gate_proj`, inner, hidden, sizes.mlpBias)
    linear(`${at}.mlp.up_proj`, inner, hidden, sizes.mlpBias)
    linear(`${at}.mlp.down_proj`, hidden, inner, sizes.mlpBias)
  }
  params.set(norm, { shape: [hidden], init: "ones" })
  if (tied) sites.push({ path: head, kind: "linear", in: hidden, out: vocab, param: table, tiedTo: embedding })
  else linear(head, vocab, hidden, false)
  return { params, sites }
}

function forward({ layers, heads, kvHeads, dim }: Sizes, frequencies: Float32Array, eps: number): Blueprint["hidden"] {
  return (batch, run) => {
    const lead = [batch.batch, batch.tokens]
    const { positions, rows } = positionsOf(batch)
    const tables = rotaryTables(frequencies, positions)
    const angles = [rows, batch.tokens, 1, dim / 2]
    const [cos, sin] = [tensor(run.backend, tables.cos, angles), tensor(run.backend, tables.sin, angles)]
    const valid = validKeys(run.backend, batch)

    const attend = (at: string, x: Tensor): Tensor => {
      const q = rope(run.linear(`${at}.q_proj`, x).reshape([...lead, heads, dim]), cos, sin)
      const newKeys = rope(run.linear(`${at}.k_proj`, x).reshape([...lead, kvHeads, dim]), cos, sin)
      const newValues = run.linear(`${at}.v_proj`, x).reshape([...lead, kvHeads, dim])
      const [k, v] = batch.cache?.update(at, newKeys, newValues) ?? [newKeys, newValues]
      const seen = attention(q, k, v, valid ? { valid } : {})
      return run.linear(`${at}.o_proj`, seen.reshape([...lead, heads * dim]))
    }
    let x = run.embedding(embedding, tensor(run.backend, batch.ids, lead, "i32"))
    for (let layer = 0; layer < layers; layer++) {
      const before = x
      x = run.block(() => {
        const at = layerPath(layer)
        const h = before.add(
          attend(`${at}.self_attn`, rmsNorm(before, run.tensor(`${at}.input_layernorm.weight`), eps)),
        )
        return h.add(
          feedForward(`${at}.mlp`, rmsNorm(h, run.tensor(`${at}.post_attention_layernorm.weight`), eps), run),
        )
      })
    }
    return rmsNorm(x, run.tensor(norm), eps)
  }
}

/** down(silu(gate(x)) · up(x)). */
function feedForward(at: string, x: Tensor, run: Run): Tensor {
  const inner = map(gated, [run.linear(`${at}.gate_proj`, x), run.linear(`${at}.up_proj`, x)])
  return run.linear(`${at}.down_proj`, inner)
}
