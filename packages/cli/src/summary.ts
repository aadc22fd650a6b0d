/** What a training run comes to, from its result and its metrics file. Must not know how training works. */
import { readFile } from "node:fs/promises"
import { type Restarts, restartsIn, type StepMetrics, type TrainResult } from "@peftjs/train"
import pc from "picocolors"
import { mebibytes } from "./memory/estimate.ts"
import { peakRssMb } from "./process-memory.ts"
import { duration } from "./progress.ts"
import type { Sizes } from "./trainable.ts"

/** The JSON object of `peft train`. */
export interface Summary {
  readonly steps: number
  /** Of the last step; null when there was none. */
  readonly loss: number | null
  /** Mean over the steps of the whole run, those before resuming included. */
  readonly train_loss: number | null
  readonly eval_loss?: number
  readonly eval_response_loss?: number
  readonly trainable: number
  readonly total: number
  /** Of training now, without loading. */
  readonly seconds: number
  /** That went through the model now, without padding. */
  readonly tokens: number
  readonly tokens_per_s: number
  readonly adapter?: string
  readonly model?: string
  /** Merges into the base in the steps done, where there are restarts. */
  readonly restarts?: number
  /** What the process needed at most, and what was estimated before it began; null where it could not be. */
  readonly peak_rss_mb: number
  readonly estimated_mb: number | null
  /** What computed it. */
  readonly kernels: string
  readonly interrupted: boolean
}

export interface Finished {
  readonly result: TrainResult
  /** The step this process began at. */
  readonly from: number
  readonly seconds: number
  readonly sizes: Sizes
  readonly kernels: string
  /** Path of metrics.jsonl. */
  readonly metrics: string
  readonly saved: { readonly adapter?: string; readonly model?: string }
  readonly restart?: Restarts | undefined
  /** Bytes. */
  readonly estimated: number | undefined
}

export async function summarise(finished: Finished): Promise<Summary> {
  const { result, from, seconds, sizes, kernels, metrics, saved, restart, estimated } = finished
  const text = await readFile(metrics, "utf8").catch(() => "")
  const steps = text
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as StepMetrics)
  const tokens = steps.filter(({ step }) => step > from).reduce((sum, { input_tokens }) => sum + input_tokens, 0)
  const { evaluation } = result
  return {
    steps: result.steps,
    loss: steps.at(-1)?.loss ?? null,
    train_loss: steps.length === 0 ? null : steps.reduce((sum, { loss }) => sum + loss, 0) / steps.length,
    ...(evaluation ? { eval_loss: evaluation.loss } : {}),
    ...(evaluation?.response_loss === undefined ? {} : { eval_response_loss: evaluation.response_loss }),
    trainable: sizes.trainable,
    total: sizes.total,
    seconds,
    tokens,
    tokens_per_s: seconds > 0 ? tokens / seconds : 0,
    ...saved,
    ...(restart ? { restarts: restartsIn(restart, result.steps) } : {}),
    peak_rss_mb: peakRssMb(),
    estimated_mb: estimated === undefined ? null : mebibytes(estimated),
    kernels,
    interrupted: result.interrupted,
  }
}

/** The same for people. */
export function describeSummary({
  steps,
  loss,
  train_loss,
  eval_loss,
  seconds,
  tokens_per_s,
  adapter,
  model,
  restarts,
  peak_rss_mb,
  estimated_mb,
}: Summary): string {
  const mb = (value: number): string => `${Math.round(value).toLocaleString("en")} MB`
  const expected = estimated_mb === null ? "" : `, estimated ${mb(estimated_mb)}`
  const figure = (name: string, value: number | null | undefined): string[] =>
    value == null ? [] : [`${name} ${pc.green(value.toFixed(4))}`]
  const losses = [...figure("last loss", loss), ...figure("mean", train_loss), ...figure("evaluated", eval_loss)]
  const after = restarts === undefined ? "" : `, ${restarts} restarts`
  return [
    `${steps} steps in ${duration(seconds)} (${Math.round(tokens_per_s)} tokens/s), ${losses.join(", ") || "no new step"}${after}`,
    `memory:  at most ${mb(peak_rss_mb)}${expected}`,
    ...(model === undefined ? [] : [`model:   ${model}`]),
    ...(adapter === undefined ? [] : [`adapter: ${adapter}`]),
  ].join("\n")
}
