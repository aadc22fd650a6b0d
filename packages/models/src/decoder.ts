/**
 * The decoder that Llama, Mistral and Qwen share: RMS norms, rotary positions, grouped key-value heads, gated feed-forward layers.
 * Written as transformers computes it, in [batch, tokens, heads, dim] so that reshaping is all that heads need.
 * Knows configs but no family: what differs between them is in `Family`. Attention dropout is not applied: every released config has it at 0.
 */
import type { Run, Tensor } from "@peftjs/core"
import { attention, call, input, map, rmsNorm, rope, tensor } from "@peftjs/core"
import type { Architecture, Blueprint, ParamSpec, SiteSpec } from "./architecture.ts"
import type { Config } from "./config.ts"
import { addHead, addLinear, addTable, type Layers } from "./layers.ts"
import { rotaryFrequencies, rotaryTables } from "./rotary.ts"
import { positionsOf, validKeys } from "./sequence.ts"

/** What one family of decoders says of itself, most of it read from its config. */
export interface Family {
  readonly modelType: string
  /** Size of a head where the config does not say. */
  headDim(hidden: number, heads: number): number
  /** Key-value heads where the config does not say. */
  kvHeads(config: Config, heads: number): number
  /** Which layers have a bias. */
  biases(config: Config): { readonly qkv: boolean; readonly out: boolean; readonly mlp: boolean }
  /** Queries and keys go through a norm over each head. */
  readonly headNorm?: true
  /** How many keys each query of a layer sees at most, itself included; all when undefined. */
  window(config: Config): (layer: number) => number | undefined
}

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
}

/** The architecture of a family. */
export function decoder(family: Family): Architecture {
  return {
    modelType: family.modelType,
    blueprint(config) {
      const sizes = sizesOf(config, family)
      const eps = config.positive("rms_norm_eps", 1e-6)
      const std = config.positive("initializer_range", 0.02)
      const tied = config.flag("tie_word_embeddings", false)
      return {
        ...layersOf(sizes, config, family, tied),
        head,
        prefix: "model.",
        ignored: tied ? /rotary_emb\.inv_freq$|^lm_head\.weight$/ : /rotary_emb\.inv_freq$/,
        std,
        hidden: forward(sizes, rotaryFrequencies(config, sizes.dim), eps, family, family.window(config)),
      }
    },
  }
}

function sizesOf(config: Config, family: Family): Sizes {
  const hidden = config.whole("hidden_size")
  const heads = config.whole("num_attention_heads")
  const kvHeads = config.whole("num_key_value_heads", family.kvHeads(config, heads))
  if (heads % kvHeads !== 0) config.refuse("num_key_value_heads", `it must divide num_attention_heads, ${heads}`)
  if (config.text("hidden_act", "silu") !== "silu") config.refuse("hidden_act", `only "silu" is supported`)
  return {
    vocab: config.whole("vocab_size"),
    hidden,
    inner: config.whole("intermediate_size"),
    layers: config.whole("num_hidden_layers"),
    heads,
    kvHeads,
    dim: config.whole("head_dim", family.headDim(hidden, heads)),
  }
}

function layersOf(sizes: Sizes, config: Config, family: Family, tied: boolean): Layers {
  const { vocab, hidden, inner, heads, kvHeads, dim } = sizes
  const bias = family.biases(config)
  const params = new Map<string, ParamSpec>()
  const sites: SiteSpec[] = []
  const layers = { params, sites }
  const ones = (path: string, n: number): unknown => params.set(path, { shape: [n], init: "ones" })
  const paddingId = config.values.pad_token_id == null ? undefined : config.whole("pad_token_id", 0, 0)
  addTable(layers, embedding, vocab, hidden, paddingId)
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = layerPath(layer)
    ones(`${at}.input_layernorm.weight`, hidden)
    addLinear(layers, `${at}.self_attn.q_proj`, heads * dim, hidden, { bias: bias.qkv })
    addLinear(layers, `${at}.self_attn.k_proj`, kvHeads * dim, hidden, { bias: bias.qkv })
    addLinear(layers, `${at}.self_attn.v_proj`, kvHeads * dim, hidden, { bias: bias.qkv })
    addLinear(layers, `${at}.self_attn.o_proj`, hidden, heads * dim, { bias: bias.out })
    if (family.headNorm) for (const name of ["q_norm", "k_norm"]) ones(`${at}.self_attn.${name}.weight`, dim)
    ones(`${at}.post_attention_layernorm.weight`, hidden)
    addLinear(layers, `${at}.mlp.gate_proj`, inner, hidden, { bias: bias.mlp })
    addLinear(layers, `${at}.mlp.up_proj`, inner, hidden, { bias: bias.mlp })
    addLinear(layers, `${at}.mlp.down_proj`, hidden, inner, { bias: bias.mlp })
  }
  ones(norm, hidden)
  addHead(layers, head, embedding, tied)
  return layers
}

function forward(
  { layers, heads, kvHeads, dim }: Sizes,
  frequencies: Float32Array,
  eps: number,
  { headNorm }: Family,
  windowOf: (layer: number) => number | undefined,
): Blueprint["hidden"] {
  return (batch, run) => {
    const lead = [batch.batch, batch.tokens]
    const { positions, rows } = positionsOf(batch)
    const tables = rotaryTables(frequencies, positions)
    const angles = [rows, batch.tokens, 1, dim / 2]
    const [cos, sin] = [tensor(run.backend, tables.cos, angles), tensor(run.backend, tables.sin, angles)]
    const valid = validKeys(run.backend, batch)

    const turned = (at: string, name: "q" | "k", x: Tensor, n: number): Tensor => {
      const split = run.linear(`${at}.${name}_proj`, x).reshape([...lead, n, dim])
      return rope(headNorm ? rmsNorm(split, run.tensor(`${at}.${name}_norm.weight`), eps) : split, cos, sin)
    }
    const attend = (at: string, x: Tensor, window: number | undefined): Tensor => {
      const q = turned(at, "q", x, heads)
      const newKeys = turned(at, "k", x, kvHeads)
      const newValues = run.linear(`${at}.v_proj`, x).reshape([...lead, kvHeads, dim])
      const [k, v] = batch.cache?.update(at, newKeys, newValues) ?? [newKeys, newValues]
      const seen = attention(q, k, v, { ...(valid ? { valid } : {}), ...(window === undefined ? {} : { window }) })
      return run.linear(`${at}.o_proj`, seen.reshape([...lead, heads * dim]))
    }
    let x = run.embedding(embedding, tensor(run.backend, batch.ids, lead, "i32"))
    for (let layer = 0; layer < layers; layer++) {
      const before = x
      x = run.block(() => {
        const at = layerPath(layer)
        const normed = rmsNorm(before, run.tensor(`${at}.input_layernorm.weight`), eps)
        const h = before.add(attend(`${at}.self_attn`, normed, windowOf(layer)))
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
