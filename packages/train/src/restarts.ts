/**
 * When a run restarts: what it may be told, the arithmetic of its cycles, and the learning rate that climbs anew after each.
 * Numbers alone: must not know models, optimizers or files.
 */
import { PeftError } from "@peftjs/core"
import { requireNumbers, requireWhole } from "./ranges.ts"
import type { Schedule } from "./schedules.ts"

/**
 * What becomes of the optimizer's averages of the adapter. "reset": they and their step count start again. "random": a share of their
 * entries becomes zero. "magnitude": the entries that are, for their tensor, among that share of the smallest do.
 */
export type OptimizerReset =
  | { readonly reset: "reset" }
  | {
      readonly reset: "random" | "magnitude"
      /** Share that becomes zero, above 0, at most 1; by default 0.999 for random and 0.9 for magnitude, as published. */
      readonly ratio?: number
      /**
       * An entry stays in all averages or in none; default true. The published code prunes each by itself: where a mean of gradients stays
       * and its mean of squares does not, AdamW divides by epsilon, which only an epsilon as large as 1e-2 survives.
       */
      readonly together?: boolean
    }

/** Merging into the base and starting the adapter anew, every so many steps (ReLoRA, ReMoRA). */
export interface RestartOptions {
  /** Optimizer steps of a cycle. The last one may be shorter. */
  readonly every: number
  /** Steps in which the learning rate climbs from 0 back to its schedule after a restart; default a tenth of the cycle, at most 50. */
  readonly warmup?: number
  /** Default `{ reset: "reset" }`. */
  readonly optimizer?: OptimizerReset
  /** So many steps of full training come first, in which every parameter of the base is trained and no adapter; default 0. */
  readonly fullSteps?: number
  /** The learning rate of these, before the schedule; default the optimizer's. */
  readonly fullLearningRate?: number
  /** Steps of the next cycle's learning rate that the merge is late; default 0. The published ReLoRA has 1. */
  readonly delay?: number
}

/** Options with their defaults; survives JSON. */
export interface Restarts {
  readonly every: number
  readonly warmup: number
  readonly optimizer: { readonly reset: OptimizerReset["reset"]; readonly ratio: number; readonly together: boolean }
  readonly fullSteps: number
  readonly fullLearningRate?: number
  readonly delay: number
}

/** The cycle in which every parameter of the base is trained; adapters begin with cycle 0. */
export const fullCycle = -1

const ratios = { reset: 1, random: 0.999, magnitude: 0.9 }

/** Fills in defaults. Throws E_OPTION. */
export function settleRestarts(options: RestartOptions): Restarts {
  const { every, warmup = Math.min(50, Math.floor(every / 10)), fullSteps = 0, fullLearningRate, delay = 0 } = options
  const given: Partial<Restarts["optimizer"]> = options.optimizer ?? {}
  const { reset = "reset", ratio, together = true } = given
  requireWhole({ "restart.every": every }, 1)
  requireWhole({ "restart.warmup": warmup, "restart.fullSteps": fullSteps, "restart.delay": delay }, 0)
  requireNumbers({ "restart.warmup": warmup, "restart.delay": delay }, (x) => x < every, `less than every, ${every}`)
  requireNumbers({ "restart.fullLearningRate": fullLearningRate }, (x) => x >= 0, "0 or more")
  if (!Object.hasOwn(ratios, reset)) {
    throw new PeftError(
      "E_OPTION",
      `[train] restart.optimizer.reset is ${JSON.stringify(reset)}; it must be one of ${Object.keys(ratios).join(", ")}`,
    )
  }
  requireNumbers({ "restart.optimizer.ratio": ratio }, (x) => x > 0 && x <= 1, "above 0, at most 1")
  const optimizer = { reset, ratio: ratio ?? ratios[reset], together }
  return { every, warmup, optimizer, fullSteps, delay, ...(fullLearningRate === undefined ? {} : { fullLearningRate }) }
}

/** Refuses a run in which no restart comes, or that ends before its last cycle has reached its learning rate. Throws E_OPTION. */
export function requireCycles({ every, warmup, fullSteps, delay }: Restarts, totalSteps: number): void {
  if (totalSteps <= fullSteps + every + delay) {
    const first = fullSteps > 0 ? ` after ${fullSteps} of full training` : ""
    throw new PeftError(
      "E_OPTION",
      `[train] restarts shall come every ${every} steps${first}, but the run has ${totalSteps}, so that none would; restart more often, or run longer`,
    )
  }
  const last = (totalSteps - fullSteps) % every
  if (last === 0 || last > Math.max(warmup, delay)) return
  throw new PeftError(
    "E_OPTION",
    `[train] after the last restart only ${last} of ${every} steps would be left, which its warm-up of ${warmup} takes up; run ${totalSteps - last} or ${totalSteps - last + every} steps`,
  )
}

/** The cycle in which a step is done, counted from 0. */
export function cycleAt({ every, fullSteps, delay }: Restarts, step: number): number {
  if (step < fullSteps) return fullCycle
  return Math.max(0, Math.floor((step - fullSteps - delay) / every))
}

/** How many restarts the first so many steps have. */
export const restartsIn = (restarts: Restarts, steps: number): number => Math.max(0, cycleAt(restarts, steps - 1))

/** The first step of a cycle's adapter, counted from 0. */
export function firstStep({ every, fullSteps, delay }: Restarts, cycle: number): number {
  return cycle <= 0 ? Math.max(0, fullSteps * (cycle + 1)) : fullSteps + cycle * every + delay
}

/**
 * A schedule that climbs anew wherever an adapter does: with the cosine, ReLoRA's jagged one (Lialin et al. 2023). A climb ends where the
 * schedule has got to by then.
 *
 * @param warmupSteps of the schedule itself, which are left as they are
 */
export function rewarmed(schedule: Schedule, { every, warmup, fullSteps }: Restarts, warmupSteps: number): Schedule {
  return (step) => {
    const inside = (step - fullSteps) % every
    const start = step - inside
    if (step < Math.max(fullSteps, warmupSteps) || start === 0 || inside >= warmup) return schedule(step)
    return (inside / warmup) * schedule(start + warmup)
  }
}
