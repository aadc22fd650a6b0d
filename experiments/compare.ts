/** Variants side by side: each swept over its learning rates, the best run kept with its spectrum. Must not know which experiment asks. */
import { type Spectrum, spectra, type Weights, weightsOf } from "./deltas.ts"
import { type Run, type Setting, sweep } from "./run.ts"
import type { Variant } from "./variants.ts"

export interface Compared {
  /** All, by variant and learning rate. */
  readonly runs: readonly (Run & { readonly chosen?: true })[]
  readonly chosen: readonly Run[]
  readonly spectra: Readonly<Record<string, readonly Spectrum[]>>
}

/** @param score of a run, the higher the better @param more how often a sweep whose best is at its edge goes on */
export async function compare(
  variants: readonly Variant[],
  setting: Setting,
  score: (run: Run) => number,
  more: number,
): Promise<Compared> {
  const before = await weightsOf(setting.base)
  const runs: Compared["runs"][number][] = []
  const chosen: Run[] = []
  const found: Record<string, readonly Spectrum[]> = {}
  for (const variant of variants) {
    const after = new Map<number, Weights>()
    const keeping: Setting = {
      ...setting,
      after: async (model, { learningRate }) => void after.set(learningRate, await weightsOf(model)),
    }
    const { best, runs: tried } = await sweep(variant, keeping, score, more)
    runs.push(...tried.map((run) => (run === best ? { ...run, chosen: true as const } : run)))
    chosen.push(best)
    found[variant.name] = spectra(before, after.get(best.learningRate) as Weights)
  }
  return { runs, chosen, spectra: found }
}
