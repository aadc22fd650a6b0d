/** What `train` may be told, with defaults, and the refusal of what makes no sense. Must not know how training works. */
import type { Communicator, Model, Tokenizer } from "@peftjs/core"
import { PeftError } from "@peftjs/core"
import { adamw } from "./adamw.ts"
import type { CheckpointStore } from "./checkpoint.ts"
import { type EncodeOptions, lossMasks } from "./encode.ts"
import type { EvaluateResult } from "./evaluate.ts"
import type { StepMetrics } from "./metrics.ts"
import type { Optimizer } from "./optimizer.ts"
import { requireNumbers, requireWhole } from "./ranges.ts"
import { type RestartOptions, type Restarts, requireCycles, rewarmed, settleRestarts } from "./restarts.ts"
import type { Data } from "./rows.ts"
import { type ScheduleName, type ScheduleOptions, schedule } from "./schedules.ts"
import type { Restarted } from "./stage.ts"

/** A schedule's name, or its name with what only it knows: `{ name: "cosine_with_min_lr", minLrRate: 0.1 }`. */
export type Scheduler =
  | ScheduleName
  | ({ readonly name: ScheduleName } & Omit<ScheduleOptions, "warmupSteps" | "totalSteps" | "learningRate">)

export interface TrainOptions extends EncodeOptions {
  /** Optimizer steps. Stands before `epochs`. */
  readonly maxSteps?: number
  /** Passes over the data, fractions allowed; default 1. */
  readonly epochs?: number
  /** Rows per forward pass; default 4. */
  readonly batchSize?: number
  /** Micro-batches per optimizer step; default 1. */
  readonly gradientAccumulationSteps?: number
  /** Of the default optimizer, AdamW; default: the method's own, else 2e-4. Not together with `optimizer`. */
  readonly learningRate?: number
  /** Of the default optimizer; default 0. Not together with `optimizer`. */
  readonly weightDecay?: number
  /** Default AdamW. */
  readonly optimizer?: Optimizer
  /** Default "linear". */
  readonly scheduler?: Scheduler
  /** Optimizer steps of warm-up; default 0. */
  readonly warmupSteps?: number
  /**
   * Merge the adapter into the base and start it anew, again and again (ReLoRA, ReMoRA). The base then changes, so go on with the model of
   * the result: the one given is used up by the first restart, and resuming needs one made anew. The schedule is a cosine to a tenth unless
   * another is given.
   */
  readonly restart?: RestartOptions
  /** Gradients are scaled down to this norm over all parameters; 0: never. Default 1. */
  readonly maxGradNorm?: number
  /** Keep only the inputs of blocks and compute the rest again: less memory, about a third more time. */
  readonly gradientCheckpointing?: boolean
  /** A new order every epoch; default true. */
  readonly shuffle?: boolean
  /** Of order and dropout; default 0. */
  readonly seed?: number
  /** Default: the model's. */
  readonly tokenizer?: Tokenizer
  /** Where checkpoints go; without it none are written. */
  readonly checkpoints?: CheckpointStore
  /** Optimizer steps between checkpoints; default: none but on interruption. With it, the last step is saved too. */
  readonly saveSteps?: number
  /**
   * Optimizer steps between copies of what is trained, and of the optimizer's averages, to the host. Only where the device can be lost
   * (`backend.lost`) and `checkpoints` are given: when it is, the last copy becomes a checkpoint. 0: never. Default 10. With AdamW that is 12
   * bytes per trained value: for LoRA of rank 8 on all linear layers of SmolLM2-135M 29 MB, read in 0.6 s on a busy software device.
   */
  readonly snapshotSteps?: number
  /**
   * Joins replicas of this program, each with a model of its own: every micro-batch's rows are shared among them, and the losses are those
   * of one program that has all rows. Each calls `train` with the same data and options; rank 0 writes. Default: alone.
   */
  readonly communicator?: Communicator
  /** Continue from the latest checkpoint there is in `checkpoints`. */
  readonly resume?: boolean
  /** Evaluated after every `evalSteps` steps and at the end. */
  readonly evalData?: Data | Promise<Data>
  readonly evalSteps?: number
  /** After every optimizer step, with the view as it is then: with `restart`, not always the same. */
  readonly onStep?: (metrics: StepMetrics, model: Model) => void | Promise<void>
  /** After a checkpoint has been written: the place to save the adapter. */
  readonly onSave?: (step: number, model: Model) => void | Promise<void>
  readonly onRestart?: (restarted: Restarted, model: Model) => void | Promise<void>
  readonly onEvaluate?: (result: EvaluateResult, step: number) => void | Promise<void>
  /** Stops after the micro-batch that is running, writes a checkpoint and returns. */
  readonly signal?: AbortSignal
}

/** Options with their defaults. */
export interface Settings {
  readonly batchSize: number
  readonly gradientAccumulationSteps: number
  readonly maxLength: number
  readonly lossMask: NonNullable<EncodeOptions["lossMask"]>
  readonly promptLossWeight: number
  readonly optimizer: Optimizer
  readonly scheduler: Exclude<Scheduler, string>
  readonly warmupSteps: number
  readonly maxGradNorm: number
  readonly gradientCheckpointing: boolean
  readonly restart?: Restarts
  readonly shuffle: boolean
  readonly seed: number
}

/**
 * Fills in defaults.
 *
 * @param ofMethod the learning rate that the method asks for
 * @throws E_OPTION naming the option, what it is and what it may be
 */
export function settle(options: TrainOptions, ofMethod?: number): Settings {
  const {
    maxSteps,
    epochs,
    batchSize = 4,
    gradientAccumulationSteps = 1,
    maxLength = 256,
    saveSteps,
    evalSteps,
    snapshotSteps,
  } = options
  const {
    lossMask = "completion",
    promptLossWeight = 0,
    scheduler = options.restart ? "relora_jagged_cosine" : "linear",
    warmupSteps = 0,
    maxGradNorm = 1,
  } = options
  const { gradientCheckpointing = false, shuffle = true, seed = 0 } = options
  requireWhole({ maxSteps, batchSize, gradientAccumulationSteps, maxLength, saveSteps, evalSteps }, 1)
  requireWhole({ warmupSteps, seed, snapshotSteps }, 0)
  requireNumbers({ epochs }, (x) => x > 0, "above 0")
  requireNumbers({ maxGradNorm }, (x) => x >= 0, "0 or more")
  requireNumbers({ promptLossWeight }, (x) => x >= 0 && x <= 1, "0 to 1")
  if (!lossMasks.includes(lossMask))
    throw new PeftError(
      "E_OPTION",
      `[train] lossMask is ${JSON.stringify(lossMask)}; it must be one of ${lossMasks.join(", ")}`,
    )
  if (options.optimizer && (options.learningRate !== undefined || options.weightDecay !== undefined))
    throw new PeftError(
      "E_OPTION",
      "[train] learningRate and weightDecay belong to the optimizer when one is given; set them there",
    )
  if ((saveSteps !== undefined || options.resume) && !options.checkpoints)
    throw new PeftError("E_OPTION", "[train] saveSteps and resume need to know where checkpoints are; give checkpoints")
  const { learningRate = ofMethod, weightDecay } = options
  return {
    batchSize,
    gradientAccumulationSteps,
    maxLength,
    lossMask,
    promptLossWeight,
    optimizer:
      options.optimizer ??
      adamw({
        ...(learningRate === undefined ? {} : { learningRate }),
        ...(weightDecay === undefined ? {} : { weightDecay }),
      }),
    scheduler: typeof scheduler === "string" ? { name: scheduler } : scheduler,
    warmupSteps,
    maxGradNorm,
    gradientCheckpointing,
    shuffle,
    seed,
    ...(options.restart ? { restart: settleRestarts(options.restart) } : {}),
  }
}

/** The learning rate at a step counted from 0. Throws E_SCHEDULE, and E_OPTION for restarts that do not fit the number of steps. */
export function learningRateOf(
  { scheduler, warmupSteps, optimizer, restart }: Settings,
  totalSteps: number,
): (step: number) => number {
  const { learningRate } = optimizer
  const { name, ...specific } = scheduler
  const options = { ...specific, warmupSteps, totalSteps, learningRate }
  if (!restart) {
    const multiplier = schedule(name, options)
    return (step) => learningRate * multiplier(step)
  }
  requireCycles(restart, totalSteps)
  const { every, fullSteps, fullLearningRate = learningRate } = restart
  if (options.restartEvery !== undefined && options.restartEvery !== every)
    throw new PeftError(
      "E_OPTION",
      `[train] restartEvery is ${options.restartEvery} where restart.every is ${every}; leave it out`,
    )
  // The jagged cosine without its own climbs: they come from the restarts, whatever the schedule.
  const smooth = name === "relora_jagged_cosine" ? { ...options, restartEvery: Number.POSITIVE_INFINITY } : options
  const multiplier = rewarmed(schedule(name, smooth), restart, warmupSteps)
  return (step) => (step < fullSteps ? fullLearningRate : learningRate) * multiplier(step)
}
