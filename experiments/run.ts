/** One training run and a sweep over learning rates, measured as they go. Must not know which experiment asks. */
import { isPeftError, type Model } from "@peftjs/core"
import { type Data, type TrainOptions, train } from "@peftjs/train"
import { release, trainableParameters, type Variant } from "./variants.ts"

/** A measured moment: the step, and numbers by name. */
export type Point = { readonly step: number } & Readonly<Record<string, number>>

export interface Run {
  readonly variant: string
  readonly learningRate: number
  /** Trainable. */
  readonly parameters: number
  /** Of time on the processor. */
  readonly seconds: number
  /** Its loss became NaN or infinite; `points` end before that. */
  readonly diverged?: true
  readonly points: readonly Point[]
}

export interface Setting {
  readonly base: Model
  readonly data: Data
  readonly steps: number
  readonly seed: number
  readonly training: TrainOptions
  /** Numbers of the model as it is, at step 0 and after every `every` steps. */
  measure(model: Model): Promise<Readonly<Record<string, number>>>
  readonly every: number
  /** Ends the run early: nothing more can come. */
  done?(point: Point): boolean
  /** Called with the trained model before it is given back. */
  after?(model: Model, run: Run): Promise<void>
}

/** Trains a variant at a learning rate. A run that diverges is a result as well. */
export async function runOnce(variant: Variant, learningRate: number, setting: Setting): Promise<Run> {
  const { base, data, steps, seed, measure, every } = setting
  const began = process.cpuUsage()
  const model = variant.make(base, seed)
  const parameters = trainableParameters(model)
  const points: Point[] = [{ step: 0, ...(await measure(model)) }]
  const stop = new AbortController()
  let diverged = false
  let trained = model
  try {
    await train(model, data, {
      ...{ maxSteps: steps, seed, learningRate, signal: stop.signal, ...setting.training, ...variant.training },
      async onStep({ step }, now) {
        // A restart leaves another model than the one it began with, which it gives back.
        trained = now
        if (step % every !== 0 && step !== steps) return
        const point = { step, ...(await measure(now)) }
        points.push(point)
        if (setting.done?.(point)) stop.abort()
      },
    })
  } catch (error) {
    if (!isPeftError(error) || error.code !== "E_LOSS_NOT_FINITE") throw error
    diverged = true
  }
  const { user, system } = process.cpuUsage(began)
  const run: Run = {
    ...{ variant: variant.name, learningRate, parameters, seconds: Math.round((user + system) / 1e6) },
    ...(diverged ? { diverged } : {}),
    points,
  }
  await setting.after?.(trained, run)
  release(trained)
  return run
}

/**
 * Every learning rate of the variant; then on by the last factor while the best is the first or the last of them, `more` times at most.
 *
 * @param score of a run: the higher the better. A run that diverged scores lowest.
 */
export async function sweep(
  variant: Variant,
  setting: Setting,
  score: (run: Run) => number,
  more: number,
): Promise<{ best: Run; runs: Run[] }> {
  const runs: Run[] = []
  const scoreOf = (run: Run): number => (run.diverged ? Number.NEGATIVE_INFINITY : score(run))
  const tryOut = async (rate: number): Promise<void> => {
    const run = await runOnce(variant, rate, setting)
    runs.push(run)
    runs.sort((a, b) => a.learningRate - b.learningRate)
    const last = Object.entries(run.points.at(-1) as Point).map(([key, x]) => `${key} ${+x.toFixed(4)}`)
    console.log(
      `  ${variant.name}, lr ${rate}: ${run.diverged ? "diverged after " : ""}${last.join(", ")} (${run.seconds} s)`,
    )
  }
  const best = (): Run => runs.reduce((a, b) => (scoreOf(b) > scoreOf(a) ? b : a))
  for (const rate of variant.rates) await tryOut(rate)
  for (let left = more; left > 0 && variant.rates.length > 1; left--) {
    const [low, high] = [runs[0] as Run, runs.at(-1) as Run]
    if (best() === high && !high.diverged) await tryOut(beside(high.learningRate, 1))
    else if (best() === low) await tryOut(beside(low.learningRate, -1))
    else break
  }
  return { best: best(), runs }
}

/** 1e-3, 3e-3, 1e-2, 3e-2 … : the next, or the one before. */
function beside(rate: number, direction: 1 | -1): number {
  const place = Math.round(Math.log10(rate) * 2) + direction
  const [power, half] = [Math.floor(place / 2), ((place % 2) + 2) % 2]
  return Number(`${half === 0 ? 1 : 3}e${power}`)
}
