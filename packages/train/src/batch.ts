/**
 * Rows put together: padding, the order of an epoch, and which rows make an optimizer step.
 * Order is a pure function of (seed, epoch), so a position in the data is one number. Must not know text.
 */
import type { ModelInput, Part } from "@peftjs/core"
import { keyOf, randomWords } from "@peftjs/core"
import type { Encoded } from "./encode.ts"

/** Padded rows, row-major [batch, tokens], with everything the loss needs to know. */
export interface Batch extends ModelInput {
  /** 1 for tokens, 0 for padding. */
  readonly mask: Int32Array
  /** -100 where nothing is learnt. */
  readonly labels: Int32Array
  /** Weight of every label that counts, in row-major order. */
  readonly weights: Float32Array
  /** 1 where the label that counts belongs to the response. */
  readonly response: Uint8Array
  /** Sum of `weights`. */
  readonly weight: number
  /** Tokens that are not padding. */
  readonly inputTokens: number
}

/**
 * Pads rows to the longest of them. A label at the first position counts nowhere: nothing precedes it to predict it from.
 *
 * @param side where the padding goes
 */
export function collate(rows: readonly Encoded[], padId: number, side: "right" | "left" = "right"): Batch {
  const tokens = Math.max(...rows.map((row) => row.ids.length))
  const size = rows.length * tokens
  const [ids, labels, mask] = [new Int32Array(size).fill(padId), new Int32Array(size).fill(-100), new Int32Array(size)]
  const weights: number[] = []
  const response: number[] = []
  for (const [r, row] of rows.entries()) {
    const offset = side === "right" ? 0 : tokens - row.ids.length
    const at = r * tokens + offset
    ids.set(row.ids, at)
    labels.set(row.labels, at)
    row.mask ? mask.set(row.mask, at) : mask.fill(1, at, at + row.ids.length)
    for (const [i, label] of row.labels.entries()) {
      if (label === -100 || offset + i === 0) continue
      weights.push(row.weights?.[i] ?? 1)
      response.push(row.response[i] ? 1 : 0)
    }
  }
  return {
    ids,
    labels,
    mask,
    batch: rows.length,
    tokens,
    weights: Float32Array.from(weights),
    response: Uint8Array.from(response),
    weight: weights.reduce((a, b) => a + b, 0),
    inputTokens: mask.reduce((a, b) => a + b, 0),
  }
}

/** Rows first…first+rows-1 of a batch, padded as they are in it. */
export function rowsOf(batch: Batch, { first, rows }: Pick<Part, "first" | "rows">): Batch {
  const { tokens } = batch
  const counted = (end: number): number =>
    batch.labels.reduce((n, x, at) => n + Number(at < end && x !== -100 && at % tokens !== 0), 0)
  const [from, to] = [first * tokens, (first + rows) * tokens]
  const [start, end] = [counted(from), counted(to)]
  const [mask, weights] = [batch.mask.subarray(from, to), batch.weights.subarray(start, end)]
  return {
    ids: batch.ids.subarray(from, to),
    labels: batch.labels.subarray(from, to),
    mask,
    batch: rows,
    tokens,
    weights,
    response: batch.response.subarray(start, end),
    weight: weights.reduce((a, b) => a + b, 0),
    inputTokens: mask.reduce((a, b) => a + b, 0),
  }
}

/** Row numbers in the order of an epoch: as they are, or shuffled (Fisher & Yates). */
export function epochOrder(rows: number, epoch: number, options: { shuffle: boolean; seed: number }): number[] {
  const order = Array.from({ length: rows }, (_, i) => i)
  if (!options.shuffle) return order
  const words = randomWords(keyOf(options.seed, "shuffle", epoch), rows)
  for (let i = rows - 1; i > 0; i--) {
    const j = Math.floor(((words[i] as number) / 2 ** 32) * (i + 1))
    ;[order[i], order[j]] = [order[j] as number, order[i] as number]
  }
  return order
}

export interface Grouping {
  readonly batchSize: number
  readonly gradientAccumulationSteps: number
}

/** Optimizer steps of an epoch. The last one may be smaller, as in transformers' Trainer; no row is dropped. */
export function groupsPerEpoch(rows: number, { batchSize, gradientAccumulationSteps }: Grouping): number {
  return Math.ceil(Math.ceil(rows / batchSize) / gradientAccumulationSteps)
}

/** Row numbers of the micro-batches of one optimizer step: the `group`-th of an epoch. */
export function groupRows(
  order: readonly number[],
  group: number,
  { batchSize, gradientAccumulationSteps }: Grouping,
): number[][] {
  const size = batchSize * gradientAccumulationSteps
  const rows = order.slice(group * size, (group + 1) * size)
  return Array.from({ length: Math.ceil(rows.length / batchSize) }, (_, i) =>
    rows.slice(i * batchSize, (i + 1) * batchSize),
  )
}
