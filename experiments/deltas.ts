/**
 * What training has added to each projection, and its singular values: how many exceed 0.1 (the paper's measure, figure 6 of arXiv
 * 2405.12130) and the effective rank, e to the entropy of the normalised values (Roy & Vetterli 2007). Must not know training.
 */
import { type Model, mergedValue, mergePlan } from "@peftjs/core"
import { singularValues } from "@peftjs/mora"
import { byProjection } from "../packages/cli/src/spectra.ts"

export interface Spectrum {
  /** "q_proj", "up_proj" … */
  readonly projection: string
  /** Layers that the numbers are means over. */
  readonly layers: number
  /** Singular values there are: the smaller side of the matrix. */
  readonly full: number
  /** Of these, above 0.1. */
  readonly above: number
  readonly effectiveRank: number
  /** The largest. */
  readonly largest: number
}

export type Weights = ReadonlyMap<string, { readonly values: Float32Array; readonly rows: number }>

/** The matrices of a model's blocks as they are, adapters included. */
export async function weightsOf(model: Model): Promise<Weights> {
  const plan = mergePlan(model)
  const weights = new Map<string, { values: Float32Array; rows: number }>()
  for (const site of plan.definition.sites.values()) {
    if (site.kind !== "linear" || site.path === model.head) continue
    const { values } = await mergedValue(model, plan, site.param)
    weights.set(site.path, { values, rows: site.out })
  }
  return weights
}

/** One row per projection, means over the layers. */
export function spectra(before: Weights, after: Weights): Spectrum[] {
  const layers = [...after].map(([path, { values, rows }]) => {
    const start = before.get(path)?.values as Float32Array
    const delta = values.map((w, i) => w - (start[i] as number))
    const columns = values.length / rows
    return { path, size: Math.min(rows, columns), values: singularValues(delta, rows, columns) }
  })
  const rounded = (x: number): number => Number(x.toFixed(3))
  return byProjection(layers, 0.1).map(({ projection, layers: count, size, above, effective_rank, largest }) => ({
    ...{ projection, layers: count, full: rounded(size), above: rounded(above) },
    ...{ effectiveRank: rounded(effective_rank), largest: rounded(largest) },
  }))
}
