/**
 * LoRA (Hu et al. 2021, arXiv 2106.09685): y = W x + s · B A x with A [r, in], B [out, r], s = alpha / r
 * (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732: s = alpha / √r).
 */
import type { AdapterMethod, Init, MethodFactory, Param, Params, Site, Tensor } from "@peftjs/core"
import { completeOptions, denseWeight, fromPattern, lookUp, PeftError, param } from "@peftjs/core"
import { norm, withMagnitude } from "./dora.ts"
import { loraFormat } from "./format.ts"

export interface LoraOptions {
  /** Rank of the update; a positive integer. 8 by default. */
  readonly r?: number
  /** Scale: the update is multiplied by alpha / r. 8 by default, as in PEFT. */
  readonly alpha?: number
  /** Probability of dropping an element of the adapter's input in training, 0 ≤ p < 1. 0 by default. */
  readonly dropout?: number
  /** Multiply by alpha / √r instead. */
  readonly rslora?: boolean
  /** true: A uniform in ±1/√in, B zero; "gaussian": A ~ N(0, 1/r²), B zero; false: both random (not the identity; for tests). Embeddings: A zero, B ~ N(0, 1). */
  readonly init?: boolean | "gaussian"
  /** Ranks of single layers, by suffix or regular expression of their path. */
  readonly rankPattern?: Readonly<Record<string, number>>
  /** Alphas of single layers, likewise. */
  readonly alphaPattern?: Readonly<Record<string, number>>
  /** Train a magnitude per output beside (DoRA). */
  readonly dora?: boolean
  /** Train a bias of B, for linear layers; not with `dora`, and with `init` true or false. */
  readonly loraBias?: boolean
}

/** Low-rank adapters for linear layers and embeddings. Throws E_OPTION (unknown or out of range), E_RANK. */
export const lora: MethodFactory<LoraOptions> = Object.assign(makeLora, { format: loraFormat(makeLora) })

const defaults: Required<LoraOptions> = {
  ...{ r: 8, alpha: 8, dropout: 0, rslora: false, init: true, rankPattern: {}, alphaPattern: {} },
  ...{ dora: false, loraBias: false },
}

function makeLora(options: LoraOptions = {}): AdapterMethod {
  const config = completeOptions("lora", defaults, options)
  check(config)
  const { r, dropout, init, rankPattern, dora, loraBias } = config
  const rankAt = (site: Site): number => fromPattern(rankPattern, site.path, r)
  const scaleAt = (site: Site): number => loraScale(config, site.path)
  return {
    kind: "site",
    specVersion: 1,
    name: "lora",
    config: { ...config },
    sites: ["linear", "embedding"],
    mergeable: true,
    format: lora.format as NonNullable<typeof lora.format>,
    init({ site, base, init: make }) {
      const params: Record<string, Param> = { ...pair(make, site, rankAt(site), init) }
      const { A, B } = params as { A: Param; B: Param }
      if (dora) params.m = param(norm({ site, base }, A.value, B.value, scaleAt(site)))
      if (!loraBias) return { params }
      if (site.kind === "embedding") throw wrong(`loraBias is for linear layers; exclude ${site.path}`)
      const bound = init === false ? 1 / Math.sqrt(rankAt(site)) : 0
      return { params: { ...params, bias: param(make.uniform("bias", [site.out], -bound, bound)) } }
    },
    forward(x, next, params, context) {
      const { A, B, m, bias } = params as { A: Tensor; B: Tensor } & Params
      const { site } = context
      const embedding = site.kind === "embedding"
      const s = scaleAt(site)
      const dropped = embedding ? x : context.dropout(x, dropout)
      // Scaled where it is smallest: [tokens, r].
      const low = embedding ? lookUp(denseWeight([A.T]), x, site.paddingId) : dropped.matmul(A.T)
      const product = low.mul(s).matmul(B.T)
      const update = bias ? product.add(bias.mul(s)) : product
      return m ? withMagnitude(x, dropped, next, update, { A, B, m, s }, context) : next(x).add(update)
    },
  }
}

/** What B·A is multiplied by at a layer: `config` is a LoRA method's, complete with defaults. */
export function loraScale(config: Required<LoraOptions>, path: string): number {
  const { r, alpha, rslora, rankPattern, alphaPattern } = config
  const rank = fromPattern(rankPattern, path, r)
  return fromPattern(alphaPattern, path, alpha) / (rslora ? Math.sqrt(rank) : rank)
}

/** A and B as PEFT makes them. */
function pair(make: Init, site: Site, r: number, init: LoraOptions["init"]): Record<"A" | "B", Param> {
  const { kind, in: width, out } = site
  const free = init === false
  if (kind === "embedding") {
    const A = free ? make.normal("A", [r, width], 1) : make.zeros([r, width])
    return { A: param(A), B: param(make.normal("B", [out, r], 1)) }
  }
  const [a, b] = [1 / Math.sqrt(width), 1 / Math.sqrt(r)]
  const A = init === "gaussian" ? make.normal("A", [r, width], 1 / r) : make.uniform("A", [r, width], -a, a)
  return { A: param(A), B: param(free ? make.uniform("B", [out, r], -b, b) : make.zeros([out, r])) }
}

const wrong = (message: string): PeftError => new PeftError("E_OPTION", `[lora] ${message}`)

function check({ r, alpha, dropout, init, rankPattern, alphaPattern, dora, loraBias }: Required<LoraOptions>): void {
  const rank = [r, ...Object.values(rankPattern)].find((n) => !Number.isInteger(n) || n < 1)
  if (rank !== undefined)
    throw new PeftError(
      "E_RANK",
      `[lora] a rank of ${rank} is none; r and rankPattern take positive integers, such as 8`,
    )
  const scale = [alpha, ...Object.values(alphaPattern)].find((n) => !Number.isFinite(n))
  if (scale !== undefined) throw wrong(`alpha = ${scale} must be a finite number, such as 16, also in alphaPattern`)
  if (!(dropout >= 0 && dropout < 1)) throw wrong(`dropout = ${dropout} must be at least 0 and less than 1`)
  if (typeof init !== "boolean" && init !== "gaussian")
    throw wrong(`init (init_lora_weights) = ${JSON.stringify(init)} must be true, false or "gaussian"`)
  if (loraBias && (dora || init === "gaussian"))
    throw wrong("loraBias goes neither with dora nor with an init of its own; leave one of them out")
}
