/**
 * Learning-rate schedules by the names and formulas of transformers 5 (optimization.py), and ReLoRA's jagged cosine.
 * Each is a pure function of the step, so a resumed run needs no state. Must not know optimizers or the trainer.
 */
import { PeftError } from "@peftjs/core"

/** What a schedule may be given; each reads what its formula has. Steps count optimizer steps. */
export interface ScheduleOptions {
  /** Steps of the linear climb from 0. */
  readonly warmupSteps: number
  /** Steps of the whole run. */
  readonly totalSteps: number
  /** The learning rate that is multiplied; for schedules that end at an absolute rate. */
  readonly learningRate: number
  /** cosine: waves, default 0.5; cosine_with_restarts: restarts, default 1. */
  readonly numCycles?: number
  /** polynomial: exponent, default 1. */
  readonly power?: number
  /** polynomial: last learning rate, default 1e-7. */
  readonly lrEnd?: number
  /** inverse_sqrt: default warmupSteps, or 10,000 without warm-up. */
  readonly timescale?: number
  /** cosine_with_min_lr, cosine_warmup_with_min_lr: the lowest rate, absolute or as a share; one of the two. */
  readonly minLr?: number
  readonly minLrRate?: number
  /** cosine_warmup_with_min_lr: share of the rate at step 0; default 1 / warmupSteps. */
  readonly warmupLrRate?: number
  /** warmup_stable_decay: lengths of the last two stages; the stable one defaults to what is left. */
  readonly numDecaySteps?: number
  readonly numStableSteps?: number
  readonly warmupType?: "linear" | "cosine" | "1-sqrt"
  readonly decayType?: "linear" | "cosine" | "1-sqrt"
  /** warmup_stable_decay, relora_jagged_cosine: lowest share, default 0 and 0.1. */
  readonly minLrRatio?: number
  /** relora_jagged_cosine: steps between restarts, length of the climb after one, steps the cycle is ahead. */
  readonly restartEvery?: number
  readonly restartWarmupSteps?: number
  readonly adjustStep?: number
}

export type ScheduleName =
  | "constant"
  | "constant_with_warmup"
  | "linear"
  | "cosine"
  | "cosine_with_restarts"
  | "polynomial"
  | "inverse_sqrt"
  | "cosine_with_min_lr"
  | "cosine_warmup_with_min_lr"
  | "warmup_stable_decay"
  | "relora_jagged_cosine"

/** The multiplier of the learning rate at an optimizer step, counted from 0. */
export type Schedule = (step: number) => number

const climb = (step: number, { warmupSteps }: ScheduleOptions): number => step / Math.max(1, warmupSteps)

/** A share of the way from the end of the warm-up to the end of the run; above 1 afterwards. */
const progressOf = (step: number, o: ScheduleOptions): number =>
  (step - o.warmupSteps) / Math.max(1, o.totalSteps - o.warmupSteps)

const wave = (turns: number): number => 0.5 * (1 + Math.cos(Math.PI * turns))
const between = (low: number, factor: number): number => factor * (1 - low) + low

const warmed =
  (after: (o: ScheduleOptions) => Schedule) =>
  (o: ScheduleOptions): Schedule => {
    const rest = after(o)
    return (step) => (step < o.warmupSteps ? climb(step, o) : rest(step))
  }

const table: Readonly<Record<ScheduleName, (options: ScheduleOptions) => Schedule>> = {
  constant: () => () => 1,
  constant_with_warmup: warmed(() => () => 1),
  linear: warmed((o) => (step) => Math.max(0, (o.totalSteps - step) / Math.max(1, o.totalSteps - o.warmupSteps))),
  cosine: warmed((o) => (step) => Math.max(0, wave((o.numCycles ?? 0.5) * 2 * progressOf(step, o)))),
  cosine_with_restarts: warmed((o) => (step) => {
    const progress = progressOf(step, o)
    return progress >= 1 ? 0 : Math.max(0, wave(((o.numCycles ?? 1) * progress) % 1))
  }),
  polynomial: warmed((o) => {
    const { learningRate, lrEnd = 1e-7, power = 1, warmupSteps, totalSteps } = o
    if (learningRate <= lrEnd)
      fail("polynomial", `lrEnd = ${lrEnd} must be below the learning rate, which is ${learningRate}`)
    return (step) => {
      if (step > totalSteps) return lrEnd / learningRate
      const remaining = 1 - (step - warmupSteps) / (totalSteps - warmupSteps)
      return ((learningRate - lrEnd) * remaining ** power + lrEnd) / learningRate
    }
  }),
  inverse_sqrt: warmed(({ warmupSteps, timescale = warmupSteps || 10_000 }) => {
    return (step) => 1 / Math.sqrt((step + timescale - warmupSteps) / timescale)
  }),
  cosine_with_min_lr: warmed((o) => {
    const low = lowest("cosine_with_min_lr", o)
    return (step) => Math.max(0, between(low, wave((o.numCycles ?? 0.5) * 2 * progressOf(step, o))))
  }),
  cosine_warmup_with_min_lr: (o) => {
    const { warmupSteps, warmupLrRate } = o
    const low = lowest("cosine_warmup_with_min_lr", o)
    return (step) => {
      if (step >= warmupSteps)
        return Math.max(0, between(low, wave((o.numCycles ?? 0.5) * 2 * progressOf(step + 1, { ...o, warmupSteps }))))
      if (warmupLrRate === undefined) return (step + 1) / Math.max(1, warmupSteps)
      return warmupLrRate + ((1 - warmupLrRate) * step) / Math.max(1, warmupSteps - 1)
    }
  },
  warmup_stable_decay: (o) => {
    const { warmupSteps, numDecaySteps, warmupType = "linear", decayType = "cosine", minLrRatio = 0 } = o
    if (numDecaySteps === undefined) fail("warmup_stable_decay", "numDecaySteps is missing")
    const stable = o.numStableSteps ?? o.totalSteps - warmupSteps - numDecaySteps
    const rise = {
      linear: (x: number) => x,
      cosine: (x: number) => 1 - wave(x),
      "1-sqrt": (x: number) => 1 - Math.sqrt(1 - x),
    }
    const turns = (o.numCycles ?? 0.5) * 2
    const fall = {
      linear: (x: number) => 1 - x,
      cosine: (x: number) => wave(turns * x),
      "1-sqrt": (x: number) => 1 - Math.sqrt(x),
    }
    if (!(warmupType in rise) || !(decayType in fall))
      fail(
        "warmup_stable_decay",
        `warmupType ${warmupType} and decayType ${decayType} must be linear, cosine or 1-sqrt`,
      )
    return (step) => {
      const decayed = step - warmupSteps - stable
      if (step < warmupSteps) return Math.max(0, between(minLrRatio, rise[warmupType](climb(step, o))))
      if (decayed < 0) return 1
      if (decayed >= numDecaySteps) return minLrRatio
      return Math.max(0, between(minLrRatio, fall[decayType](decayed / Math.max(1, numDecaySteps))))
    }
  },
  /** ReLoRA (Lialin et al. 2023): one cosine over the run, with a short climb back to it after every restart. */
  relora_jagged_cosine: warmed((o) => {
    const { restartEvery, restartWarmupSteps = 0, minLrRatio = 0.1, adjustStep = 0 } = o
    if (restartEvery === undefined) fail("relora_jagged_cosine", "restartEvery is missing")
    const curve: Schedule = (step) => between(minLrRatio, wave(progressOf(step, o)))
    return (step) => {
      const at = step + adjustStep
      const inside = at % restartEvery
      if (step < restartEvery || inside >= restartWarmupSteps) return curve(at)
      return (inside / Math.max(1, restartWarmupSteps)) * curve(at - inside + restartWarmupSteps)
    }
  }),
}

/** Every name `schedule` takes. */
export const scheduleNames: readonly ScheduleName[] = Object.keys(table) as ScheduleName[]

/**
 * A schedule by its name in transformers ("linear", "cosine", …).
 *
 * @throws E_SCHEDULE for an unknown name or options its formula cannot use
 */
export function schedule(name: ScheduleName, options: ScheduleOptions): Schedule {
  if (Object.hasOwn(table, name)) return table[name](options)
  const why = ["reduce_lr_on_plateau", "greedy"].includes(name)
    ? `${name} follows the loss instead of the step`
    : `there is no schedule called ${JSON.stringify(name)}`
  throw new PeftError("E_SCHEDULE", `[train] ${why}; use one of ${scheduleNames.join(", ")}`)
}

function lowest(name: string, { minLr, minLrRate, learningRate }: ScheduleOptions): number {
  if (minLr !== undefined && minLrRate === undefined) return minLr / learningRate
  if (minLr === undefined && minLrRate !== undefined) return minLrRate
  return fail(name, "give one of minLr and minLrRate")
}

function fail(name: string, wrong: string): never {
  throw new PeftError("E_SCHEDULE", `[train] ${name}: ${wrong}`)
}
