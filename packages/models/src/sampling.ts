/**
 * Choosing the next token at random: penalty, temperature, top-k and top-p in transformers' order and with its thresholds
 * (GenerationMixin._get_logits_processor and generation/logits_process.py, transformers 5.23). Knows ids and logits only.
 */
import { keyOf, PeftError, threefry } from "@peftjs/core"
import { greedy, type Pick } from "./generate.ts"

export interface SampleOptions {
  /** Divides the logits; 1 unless told otherwise, 0 takes the likeliest. */
  readonly temperature?: number
  /** Only the k likeliest, and what is as likely as the last of them; all unless told otherwise. */
  readonly topK?: number
  /** Only the likeliest that together reach this probability, in (0, 1]; 1 unless told otherwise. */
  readonly topP?: number
  /** Above 1 makes ids of the prompt and the answer less likely; 1 unless told otherwise. Unlike in transformers, padding does not count. */
  readonly repetitionPenalty?: number
  /** Equal seeds choose alike from equal logits; 0 unless told otherwise. */
  readonly seed?: number
}

const f32 = Math.fround

/**
 * A pick that draws from what the options leave. The number drawn depends on the seed, the row and how many ids the row has.
 * Throws E_OPTION; the pick throws E_NOT_FINITE when a logit is NaN or infinite.
 */
export function sample(options: SampleOptions = {}): Pick {
  checkOptions(options)
  const { temperature = 1, seed = 0 } = options
  return (logits, row, ids) => {
    const scores = processLogits(logits, ids, options)
    if (temperature === 0) return greedy(scores, row, ids)
    return draw(scores, uniform(seed, row, ids.length))
  }
}

/** The logits [vocab] as they are sampled from; -Infinity where an id is left out. */
export function processLogits(logits: Float32Array, ids: readonly number[], options: SampleOptions): Float32Array {
  const { temperature = 1, topK, topP = 1, repetitionPenalty = 1 } = options
  let scores = logits.slice()
  if (repetitionPenalty !== 1) penalise(scores, ids, repetitionPenalty)
  if (temperature === 0) return scores
  if (temperature !== 1) scores = scores.map((score) => score / temperature)
  if (topK !== undefined && topK < scores.length) keepLikeliest(scores, topK)
  if (topP < 1) keepNucleus(scores, topP)
  return scores
}

/** What speaks for a repeated id is divided, what speaks against it multiplied (Keskar et al. 2019). */
function penalise(scores: Float32Array, ids: readonly number[], penalty: number): void {
  for (const id of new Set(ids)) {
    const score = scores[id] as number
    scores[id] = score < 0 ? score * penalty : score / penalty
  }
}

function keepLikeliest(scores: Float32Array, k: number): void {
  const last = scores.slice().sort().at(-k) as number
  scores.forEach((score, id) => {
    if (score < last) scores[id] = Number.NEGATIVE_INFINITY
  })
}

/** Removes from the least likely on while what is removed stays within 1 - p (Holtzman et al. 2020); one always stays. */
function keepNucleus(scores: Float32Array, p: number): void {
  const sorted = scores.slice().sort()
  const top = sorted.at(-1) as number
  const weights = sorted.map((score) => Math.exp(score - top))
  const total = weights.reduce((a, b) => a + b, 0)
  let removed = 0
  for (let sum = 0; removed < sorted.length - 1; removed++) {
    sum += f32((weights[removed] as number) / total)
    if (f32(sum) > f32(1 - p)) break
  }
  const first = sorted[removed] as number
  // Of equals at the border, those with the smaller ids go.
  let equals = removed - sorted.indexOf(first)
  scores.forEach((score, id) => {
    if (score < first || (score === first && equals-- > 0)) scores[id] = Number.NEGATIVE_INFINITY
  })
}

/** The id at a point of [0, 1) on the line that the probabilities share. */
function draw(scores: Float32Array, point: number): number {
  const top = scores.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  const weights = Float64Array.from(scores, (score) => Math.exp(score - top))
  const total = weights.reduce((a, b) => a + b, 0)
  if (!Number.isFinite(total))
    throw new PeftError("E_NOT_FINITE", "[models] a logit is NaN or infinite; the weights or the adapter are broken")
  let left = point * total
  let chosen = -1
  for (const [id, weight] of weights.entries()) {
    if (weight === 0) continue
    chosen = id
    left -= weight
    if (left < 0) break
  }
  return chosen
}

/** 53 bits of [0, 1). */
function uniform(seed: number, row: number, position: number): number {
  const [a, b] = threefry(keyOf(seed, "sample", row), [position, 0])
  return (a * 2 ** 21 + (b >>> 11)) * 2 ** -53
}

function checkOptions({ temperature, topK, topP, repetitionPenalty, seed }: SampleOptions): void {
  const check = (name: string, value: number | undefined, allowed: string, fits: (v: number) => boolean): void => {
    if (value === undefined || fits(value)) return
    throw new PeftError("E_OPTION", `[models] ${name} is ${value}; it must be ${allowed}`)
  }
  check("temperature", temperature, "0 or more", (v) => Number.isFinite(v) && v >= 0)
  check("topK", topK, "a whole number, at least 1", (v) => Number.isSafeInteger(v) && v >= 1)
  check("topP", topP, "above 0 and at most 1", (v) => v > 0 && v <= 1)
  check("repetitionPenalty", repetitionPenalty, "above 0", (v) => Number.isFinite(v) && v > 0)
  check("seed", seed, "a whole number, at least 0", (v) => Number.isSafeInteger(v) && v >= 0)
}
