/**
 * GPT-2 (Radford et al. 2019): learned positions, layer norms with bias, one product for queries, keys and values, weights stored as Conv1D.
 * Follows transformers' modeling_gpt2.py. Its dropouts are not applied: an adapter's own dropout is what fine-tuning here uses.
 */
import type { Run, Tensor } from "@peftjs/core"
import { attention, call, constant, input, layerNorm, map, PeftError, tensor } from "@peftjs/core"
import type { Architecture, Blueprint } from "./architecture.ts"
import type { Config } from "./config.ts"
import { addHead, addLinear, addTable, type Layers } from "./layers.ts"
import { positionsOf, validKeys } from "./sequence.ts"

const words = "transformer.wte"
const places = "transformer.wpe"
const lastNorm = "transformer.ln_f"
const head = "lm_head"
const layerPath = (layer: number): string => `transformer.h.${layer}`

const x = input(0)
const cube = call("mul", call("mul", x, x), x)
const slope = call("mul", constant(Math.sqrt(2 / Math.PI)), call("add", x, call("mul", constant(0.044715), cube)))
/** GELU by way of tanh (Hendrycks & Gimpel 2016), as GPT-2 was trained with. */
const gelu = call("mul", call("mul", constant(0.5), x), call("add", constant(1), call("tanh", slope)))

interface Sizes {
  readonly vocab: number
  readonly context: number
  readonly hidden: number
  readonly inner: number
  readonly layers: number
  readonly heads: number
}

/** model_type "gpt2". */
export const gpt2: Architecture = {
  modelType: "gpt2",
  blueprint(config) {
    const sizes = sizesOf(config)
    const eps = config.positive("layer_norm_epsilon", 1e-5)
    const std = config.positive("initializer_range", 0.02)
    const tied = config.flag("tie_word_embeddings", true)
    const buffers = /\.attn\.(masked_)?bias$/
    return {
      ...layersOf(sizes, std, tied),
      head,
      prefix: "transformer.",
      ignored: tied ? /\.attn\.(masked_)?bias$|^lm_head\.weight$/ : buffers,
      std,
      hidden: forward(sizes, eps, scales(config, sizes)),
    }
  },
}

function sizesOf(config: Config): Sizes {
  const hidden = config.whole("n_embd")
  const heads = config.whole("n_head")
  if (hidden % heads !== 0) config.refuse("n_embd", `it must be a multiple of n_head, ${heads}`)
  const kinds = ["gelu_new", "gelu_pytorch_tanh"]
  if (!kinds.includes(config.text("activation_function", "gelu_new")))
    config.refuse("activation_function", `supported are ${kinds.map((kind) => `"${kind}"`).join(" and ")}`)
  if (config.flag("add_cross_attention", false)) config.refuse("add_cross_attention", "only false is supported")
  return {
    vocab: config.whole("vocab_size"),
    context: config.whole("n_positions", 1024),
    hidden,
    inner: config.whole("n_inner", 4 * hidden),
    layers: config.whole("n_layer"),
    heads,
  }
}

/** What each layer multiplies its scores by. */
function scales(config: Config, { hidden, heads }: Sizes): (layer: number) => number {
  const scale = config.flag("scale_attn_weights", true) ? 1 / Math.sqrt(hidden / heads) : 1
  const byLayer = config.flag("scale_attn_by_inverse_layer_idx", false)
  return (layer) => (byLayer ? scale / (layer + 1) : scale)
}

function layersOf({ vocab, context, hidden, inner, ...sizes }: Sizes, std: number, tied: boolean): Layers {
  const layers: Layers = { params: new Map(), sites: [] }
  const normed = (path: string): void => {
    layers.params.set(`${path}.weight`, { shape: [hidden], init: "ones" })
    layers.params.set(`${path}.bias`, { shape: [hidden], init: "zeros" })
  }
  const conv = (path: string, out: number, width: number, own = std): void =>
    addLinear(layers, path, out, width, { bias: true, fanInFanOut: true, std: own })
  // What adds to the residual starts smaller, by the number of additions.
  const residual = std / Math.sqrt(2 * sizes.layers)
  addTable(layers, words, vocab, hidden)
  addTable(layers, places, context, hidden)
  for (let layer = 0; layer < sizes.layers; layer++) {
    const at = layerPath(layer)
    normed(`${at}.ln_1`)
    conv(`${at}.attn.c_attn`, 3 * hidden, hidden)
    conv(`${at}.attn.c_proj`, hidden, hidden, residual)
    normed(`${at}.ln_2`)
    conv(`${at}.mlp.c_fc`, inner, hidden)
    conv(`${at}.mlp.c_proj`, hidden, inner, residual)
  }
  normed(lastNorm)
  addHead(layers, head, words, tied)
  return layers
}

function forward(sizes: Sizes, eps: number, scaleOf: (layer: number) => number): Blueprint["hidden"] {
  const { layers, heads, hidden, context } = sizes
  return (batch, run) => {
    const lead = [batch.batch, batch.tokens]
    const { positions, rows } = positionsOf(batch)
    checkPositions(positions, context)
    const valid = validKeys(run.backend, batch)
    const attend = (at: string, h: Tensor, scale: number): Tensor => {
      const all = run.linear(`${at}.c_attn`, h)
      const part = (i: number): Tensor =>
        all.slice(-1, i * hidden, (i + 1) * hidden).reshape([...lead, heads, hidden / heads])
      const [newKeys, newValues] = [part(1), part(2)]
      const [k, v] = batch.cache?.update(at, newKeys, newValues) ?? [newKeys, newValues]
      const seen = attention(part(0), k, v, { scale, ...(valid ? { valid } : {}) })
      return run.linear(`${at}.c_proj`, seen.reshape([...lead, hidden]))
    }
    const meant = run.embedding(words, tensor(run.backend, batch.ids, lead, "i32"))
    let h = meant.add(run.embedding(places, tensor(run.backend, positions, [rows, batch.tokens], "i32")))
    for (let layer = 0; layer < layers; layer++) {
      const before = h
      h = run.block(() => {
        const at = layerPath(layer)
        const seen = before.add(attend(`${at}.attn`, norm(`${at}.ln_1`, before, eps, run), scaleOf(layer)))
        const inner = map(gelu, [run.linear(`${at}.mlp.c_fc`, norm(`${at}.ln_2`, seen, eps, run))])
        return seen.add(run.linear(`${at}.mlp.c_proj`, inner))
      })
    }
    return norm(lastNorm, h, eps, run)
  }
}

function norm(path: string, h: Tensor, eps: number, run: Run): Tensor {
  return layerNorm(h, run.tensor(`${path}.weight`), run.tensor(`${path}.bias`), eps)
}

function checkPositions(positions: Int32Array, context: number): void {
  const beyond = positions.find((position) => position < 0 || position >= context)
  if (beyond === undefined) return
  throw new PeftError(
    "E_POSITION",
    `[models] position ${beyond} is outside the ${context} that this model has learned; give fewer tokens`,
  )
}
