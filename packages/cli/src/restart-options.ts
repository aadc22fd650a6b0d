/** The options of `peft train` for merging and starting anew, and what the train package calls them. Must not know methods. */
import { PeftError } from "@peftjs/core"
import type { OptimizerReset, RestartOptions } from "@peftjs/train"
import type { Command } from "commander"
import { numeric, whole } from "./options.ts"

/** As typed. */
export interface RestartFlags {
  readonly restartEvery?: number
  readonly restartWarmup?: number
  readonly optimizerReset?: string
  readonly warmStartSteps?: number
  readonly warmStartLearningRate?: number
}

export function restartOptions(command: Command): Command {
  return command
    .addOption(
      whole(
        "--restart-every <n>",
        "steps after which the adapter is merged, into f32 layers, and starts anew (ReLoRA, ReMoRA)",
        {
          min: 1,
        },
      ),
    )
    .addOption(
      whole(
        "--restart-warmup <n>",
        "steps until the learning rate is back (default: a tenth of the cycle, at most 50)",
        {
          min: 0,
        },
      ),
    )
    .option(
      "--optimizer-reset <how>",
      "its averages at a restart: reset, random:0.999 or magnitude:0.9 (default: reset)",
    )
    .addOption(whole("--warm-start-steps <n>", "steps of full training that come first (default: 0)", { min: 0 }))
    .addOption(numeric("--warm-start-learning-rate <x>", "of these (default: --learning-rate)", { min: 0 }))
}

const names = {
  restartWarmup: "restart-warmup",
  optimizerReset: "optimizer-reset",
  warmStartSteps: "warm-start-steps",
  warmStartLearningRate: "warm-start-learning-rate",
} as const

/** Undefined where no restarts are asked for. Throws E_OPTION. */
export function restartOf(flags: RestartFlags, method: string): RestartOptions | undefined {
  const { restartEvery: every, restartWarmup: warmup, optimizerReset, warmStartSteps, warmStartLearningRate } = flags
  if (every === undefined) {
    const idle = Object.entries(names).find(([key]) => flags[key as keyof typeof names] !== undefined)
    if (idle) throw wrong(`--${idle[1]} needs --restart-every; give it, or leave this out`)
    return undefined
  }
  if (method === "full")
    throw wrong("--restart-every merges an adapter, and --method full has none; choose another method, or leave it out")
  if (warmup !== undefined && warmup >= every)
    throw wrong(`--restart-warmup ${warmup} must be less than --restart-every, which is ${every}`)
  return {
    every,
    ...(warmup === undefined ? {} : { warmup }),
    ...(optimizerReset === undefined ? {} : { optimizer: resetOf(optimizerReset) }),
    ...(warmStartSteps === undefined ? {} : { fullSteps: warmStartSteps }),
    ...(warmStartLearningRate === undefined ? {} : { fullLearningRate: warmStartLearningRate }),
  }
}

/** "reset", or "random" or "magnitude" with a share. */
function resetOf(text: string): OptimizerReset {
  const [reset, share, ...rest] = text.split(":")
  const ratio = share === undefined ? undefined : share.trim() === "" ? Number.NaN : Number(share)
  const fits = ratio === undefined || (ratio > 0 && ratio <= 1)
  if (reset === "reset" && share === undefined) return { reset }
  if ((reset === "random" || reset === "magnitude") && fits && rest.length === 0)
    return ratio === undefined ? { reset } : { reset, ratio }
  throw wrong(
    `--optimizer-reset must be reset, or random or magnitude with the share that becomes zero, above 0 and at most 1, such as magnitude:0.9, not ${JSON.stringify(text)}`,
  )
}

const wrong = (message: string): PeftError => new PeftError("E_OPTION", `[cli] ${message}`)
