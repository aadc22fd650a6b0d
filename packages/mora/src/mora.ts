/**
 * MoRA (Jiang et al. 2024, arXiv 2405.12130): y = W x + decompress(M · compress(x)) with one square M [R, R] that has as many parameters
 * as LoRA of rank r and, being square, a far higher rank. Compressing and decompressing are fixed; `type` says how (kongds/MoRA, layer.py).
 */
import type { AdapterFormat, AdapterMethod, Context, MethodFactory, Site, Tensor } from "@peftjs/core"
import { completeOptions, fromPattern, PeftError, param } from "@peftjs/core"
import { moraFormat, upstreamFormat } from "./format.ts"
import { repeat, runSum, tile, wrappedSum } from "./groups.ts"
import { angles, turnedProduct } from "./rotation.ts"
import { defaultLearningRate, matrixSize } from "./size.ts"
import { following, groupings, type MoraNumber, type MoraType, typeOf } from "./types.ts"

export interface MoraOptions {
  /** M has as many parameters as LoRA of this rank; a positive integer. 8 by default. */
  readonly r?: number
  /**
   * "rotation" (for small r, the default) turns every block of the input and multiplies each by M; "sharing" (for large r) sums features
   * into groups. The others share differently, for restarts. Numbers of the published code are taken as well: 1, 2, 3, 4, 6.
   */
  readonly type?: MoraType | MoraNumber
  /** Probability of dropping an element of the adapter's input in training, 0 ≤ p < 1. 0 by default. */
  readonly dropout?: number
  /** r of single layers, by suffix or regular expression of their path. */
  readonly rankPattern?: Readonly<Record<string, number>>
  /** How many types restarts go through: 4 (1 → 2 → 3 → 4 → 1, as the published code) or 2 (1 ↔ 2, as the paper, and 3 ↔ 4). 4 by default. */
  readonly remoraTypes?: 2 | 4
}

/**
 * The layout of the published code, for `loadAdapter` and `saveAdapter`. M stands in it twice, under LoRA's names: programs that
 * do not look at `use_mora` take it for a LoRA.
 */
export const upstreamLayout: AdapterFormat = upstreamFormat(makeMora)

/** One square matrix per linear layer. Throws E_OPTION (unknown or out of range), E_RANK (also where M would exceed a layer). */
export const mora: MethodFactory<MoraOptions> = Object.assign(makeMora, {
  format: moraFormat(makeMora, [upstreamLayout]),
})

const defaults: Required<MoraOptions> = { r: 8, type: "rotation", dropout: 0, rankPattern: {}, remoraTypes: 4 }

function makeMora(options: MoraOptions = {}): AdapterMethod {
  const given = completeOptions("mora", defaults, options)
  const type = typeOf(given.type)
  const config = { ...given, type }
  check(config)
  const { r, dropout, rankPattern, remoraTypes } = config
  const sizeAt = (site: Site): number => matrixSize(site, fromPattern(rankPattern, site.path, r), type === "rotation")
  const successor = following(type, remoraTypes)
  return {
    kind: "site",
    specVersion: 1,
    name: "mora",
    config,
    sites: ["linear"],
    mergeable: true,
    learningRate: defaultLearningRate(r),
    format: mora.format as NonNullable<typeof mora.format>,
    init({ site, init }) {
      const R = sizeAt(site)
      return { params: { M: param(init.zeros([R, R])) } }
    },
    forward(x, next, { M }, context) {
      const { in: width, out } = context.site
      const update = updateOf(type, context.dropout(x, dropout).reshape([-1, width]), M as Tensor, context)
      return next(x).add(update.reshape([...x.shape.slice(0, -1), out]))
    },
    // Turned blocks have no grouping to change.
    ...(successor ? { restart: () => makeMora({ ...config, type: successor }) } : {}),
  }
}

/** What M adds to the layer's output: x [rows, in] → [rows, out]. */
function updateOf(type: MoraType, x: Tensor, M: Tensor, { site, constant }: Context): Tensor {
  const R = M.shape[0] as number
  if (type === "rotation") return tile(turnedProduct(x, M, angles(Math.ceil(site.in / R), R, constant)), site.out)
  const { sums, spreads } = groupings[type]
  const groups = sums === "strided" ? wrappedSum(x, R) : runSum(x, R)
  return (spreads === "tile" ? tile : repeat)(groups.matmul(M.T), site.out)
}

const wrong = (message: string): PeftError => new PeftError("E_OPTION", `[mora] ${message}`)

function check({ r, dropout, rankPattern, remoraTypes }: Required<MoraOptions>): void {
  const rank = [r, ...Object.values(rankPattern)].find((n) => !Number.isInteger(n) || n < 1)
  if (rank !== undefined)
    throw new PeftError(
      "E_RANK",
      `[mora] a rank of ${rank} is none; r and rankPattern take positive integers, such as 8`,
    )
  if (!(dropout >= 0 && dropout < 1)) throw wrong(`dropout = ${dropout} must be at least 0 and less than 1`)
  if (remoraTypes !== 2 && remoraTypes !== 4)
    throw wrong(`remoraTypes (remora_types) = ${JSON.stringify(remoraTypes)} must be 2 or 4`)
}
