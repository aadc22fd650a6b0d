/**
 * The loss of one micro-batch, as a number and as gradients. The mean is over the whole optimizer step: the caller says how
 * much that weighs. Must not know optimizers, or where batches come from.
 */
import type { Communicator, Model, ModelInput, RunOptions, Tensor, Tokenizer } from "@peftjs/core"
import { engineOf, free, hold, tensor, valueAndGradients } from "@peftjs/core"
import type { Batch } from "./batch.ts"
import { penaltyOf } from "./hooks.ts"

export interface LossSums {
  /** Σ weight · loss over the labels that count. */
  readonly weighted: number
  /** Σ loss over those of the response, and how many there are. */
  readonly response: number
  readonly responses: number
}

/** Sums in f64 the losses of a batch, which are in the order of its weights. */
export function sumLosses({ weights, response }: Batch, losses: Float32Array): LossSums {
  const sums = { weighted: 0, response: 0, responses: 0 }
  for (const [i, loss] of losses.entries()) {
    sums.weighted += (weights[i] as number) * loss
    if (response[i] !== 1) continue
    sums.response += loss
    sums.responses++
  }
  return sums
}

/** Sums of numbers over all replicas, in f64. */
export async function reduceSums(sums: Record<string, number>, communicator: Communicator): Promise<void> {
  if (communicator.size === 1) return
  const values = Float64Array.from(Object.values(sums))
  await communicator.allReduce([values])
  for (const [i, key] of Object.keys(sums).entries()) sums[key] = values[i] as number
}

export interface MicroBatchLoss extends LossSums {
  readonly penalty: number
  /** Held: the caller frees them. */
  readonly gradients: ReadonlyMap<Tensor, Tensor>
}

/**
 * Runs the model forward and backward. The gradients are of Σ weight · loss / `stepWeight`, plus the methods' penalties if
 * `withPenalty` (once per optimizer step).
 */
export async function microBatchLoss(
  model: Model,
  batch: Batch,
  run: RunOptions,
  { stepWeight, withPenalty }: { stepWeight: number; withPenalty: boolean },
): Promise<MicroBatchLoss> {
  const held: { losses?: Tensor; penalty?: Tensor } = {}
  let gradients: ReadonlyMap<Tensor, Tensor> = new Map()
  try {
    const result = valueAndGradients(engineOf(model.backend), () => {
      const losses = model.losses(modelInput(batch), batch.labels, run)
      held.losses = hold(losses)
      const mean = weighted(losses, batch)
        .sum()
        .mul(1 / stepWeight)
      const penalty = withPenalty ? penaltyOf(model) : undefined
      if (penalty) held.penalty = hold(penalty)
      return penalty ? mean.add(penalty) : mean
    })
    gradients = result.gradients
    free(result.value)
    const sums = sumLosses(batch, (await (held.losses as Tensor).data()) as Float32Array)
    return { ...sums, penalty: held.penalty ? ((await held.penalty.data())[0] as number) : 0, gradients }
  } catch (error) {
    for (const gradient of gradients.values()) free(gradient)
    throw error
  } finally {
    if (held.losses) free(held.losses)
    if (held.penalty) free(held.penalty)
  }
}

function weighted(losses: Tensor, { weights }: Batch): Tensor {
  if (weights.every((w) => w === 1)) return losses
  return losses.mul(tensor(losses.engine.backend, weights, [weights.length]))
}

/** What the model is given of a batch: no mask where nothing is padded, which is faster. */
export function modelInput({ ids, batch, tokens, mask, inputTokens }: Batch): ModelInput {
  return { ids, batch, tokens, ...(inputTokens === ids.length ? {} : { mask }) }
}

/** The id that fills rows up; it is masked, so any will do. */
export function padIdOf(tokenizer: Tokenizer | undefined): number {
  return tokenizer?.padTokenId ?? tokenizer?.eosTokenId ?? 0
}

/** Lets timers, signals and a page's events have their turn. */
export function yieldToEvents(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0))
}
