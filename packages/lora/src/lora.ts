/**
 * LoRA (Hu et al. 2021, arXiv 2106.09685): y = W x + s · B A x with A [r, in], B [out, r], s = alpha / r
 * (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732: s = alpha / √r).
 */
import { type AdapterMethod, fromPattern, type MethodFactory, PeftError, param, type Site } from "@peftjs/core"
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
  /** true: A uniform in ±1/√in, B zero; "gaussian": A ~ N(0, 1/r²), B zero; false: both uniform (not the identity; for tests). */
  readonly init?: boolean | "gaussian"
  /** Ranks of single layers, by suffix or regular expression of their path. */
  readonly rankPattern?: Readonly<Record<string, number>>
  /** Alphas of single layers, likewise. */
  readonly alphaPattern?: Readonly<Record<string, number>>
}

/** Low-rank adapters for linear layers. Throws E_OPTION (unknown or out of range), E_RANK. */
export const lora: MethodFactory<LoraOptions> = Object.assign(makeLora, { format: loraFormat(makeLora) })

function makeLora(options: LoraOptions = {}): AdapterMethod {
  const {
    r = 8,
    alpha = 8,
    dropout = 0,
    rslora = false,
    init = true,
    rankPattern = {},
    alphaPattern = {},
    ...unknown
  } = options
  for (const key of Object.keys(unknown)) {
    throw new PeftError(
      "E_OPTION",
      `[lora] there is no option "${key}"; there are r, alpha, dropout, rslora, init, rankPattern, alphaPattern`,
    )
  }
  for (const [where, rank] of [["r", r], ...Object.entries(rankPattern)] as const) {
    if (!Number.isInteger(rank) || rank < 1)
      throw new PeftError("E_RANK", `[lora] the rank ${where} = ${rank} must be a positive integer, such as 8`)
  }
  for (const [where, value] of [["alpha", alpha], ...Object.entries(alphaPattern)] as const) {
    if (!Number.isFinite(value))
      throw new PeftError("E_OPTION", `[lora] ${where} = ${value} must be a finite number, such as 16`)
  }
  if (!(dropout >= 0 && dropout < 1))
    throw new PeftError("E_OPTION", `[lora] dropout = ${dropout} must be at least 0 and less than 1`)
  if (typeof init !== "boolean" && init !== "gaussian") {
    throw new PeftError("E_OPTION", `[lora] init = ${JSON.stringify(init)} must be true, false or "gaussian"`)
  }
  const rankAt = (site: Site): number => fromPattern(rankPattern, site.path, r)
  const scaleAt = (site: Site): number => {
    const rank = rankAt(site)
    return fromPattern(alphaPattern, site.path, alpha) / (rslora ? Math.sqrt(rank) : rank)
  }
  return {
    kind: "site",
    specVersion: 1,
    name: "lora",
    config: { r, alpha, dropout, rslora, init, rankPattern, alphaPattern },
    sites: ["linear"],
    mergeable: true,
    format: lora.format as NonNullable<typeof lora.format>,
    init({ site, init: make }) {
      const rank = rankAt(site)
      const bound = 1 / Math.sqrt(site.in)
      const A =
        init === "gaussian"
          ? make.normal("A", [rank, site.in], 1 / rank)
          : make.uniform("A", [rank, site.in], -bound, bound)
      const B =
        init === false
          ? make.uniform("B", [site.out, rank], -1 / Math.sqrt(rank), 1 / Math.sqrt(rank))
          : make.zeros([site.out, rank])
      return { params: { A: param(A), B: param(B) } }
    },
    forward(x, next, { A, B }, context) {
      if (!A || !B) throw new PeftError("E_INTERNAL", "internal: lora without A and B")
      // Scaled where it is smallest: [tokens, r].
      const low = context.dropout(x, dropout).matmul(A.T).mul(scaleAt(context.site))
      return next(x).add(low.matmul(B.T))
    },
  }
}
