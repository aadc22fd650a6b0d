/** The loss of a model on examples, without changing it. Must not know optimizers or checkpoints. */
import type { Communicator, Model, Tokenizer } from "@peftjs/core"
import { alone, engineOf, free, noGrad, PeftError } from "@peftjs/core"
import { type Batch, collate } from "./batch.ts"
import { type EncodeOptions, encodeRow } from "./encode.ts"
import { modelInput, padIdOf, reduceSums, sumLosses, yieldToEvents } from "./loss.ts"
import { requireWhole } from "./ranges.ts"
import type { Data } from "./rows.ts"

export interface EvaluateOptions extends EncodeOptions {
  /** Rows per forward pass; default 4. Changes the speed, not the result. */
  readonly batchSize?: number
  /** Only the first so many rows. */
  readonly maxSamples?: number
  /** Default: the model's. */
  readonly tokenizer?: Tokenizer
  readonly signal?: AbortSignal
  /** Replicas share the rows; each gets the result for all. Default: alone. */
  readonly communicator?: Communicator
}

export interface EvaluateResult {
  /** Mean over all counted tokens of all rows together (weighted by promptLossWeight), in nats. */
  readonly loss: number
  /** e^loss. */
  readonly perplexity: number
  /** Labels that counted. */
  readonly tokens: number
  /** Mean over the tokens of the responses; absent when there are none. */
  readonly response_loss?: number
}

/**
 * Evaluates the model as it is, with its enabled adapters and without dropout. Rows are cut at `maxLength` tokens (256
 * unless told otherwise), as in training.
 *
 * @throws E_NO_LABELS when no row has anything to predict, E_ABORTED when `signal` asks to stop, and what `encodeRow` throws
 */
export async function evaluate(
  model: Model,
  data: Data | Promise<Data>,
  options: EvaluateOptions = {},
): Promise<EvaluateResult> {
  const { batchSize = 4, maxSamples, tokenizer = model.tokenizer, signal, communicator = alone } = options
  requireWhole({ batchSize, maxSamples }, 1)
  const { name, rows } = await data
  const chosen = rows.slice(0, maxSamples)
  const total = { sum: 0, weight: 0, tokens: 0, responseSum: 0, responses: 0 }
  for (let at = communicator.rank * batchSize; at < chosen.length; at += communicator.size * batchSize) {
    if (signal?.aborted) throw new PeftError("E_ABORTED", "[train] the evaluation was stopped")
    const encoded = chosen
      .slice(at, at + batchSize)
      .map((row, i) => encodeRow(row, tokenizer, options, `${name}, row ${at + i + 1}`))
    const batch = collate(encoded, padIdOf(tokenizer))
    if (batch.weights.length === 0) continue
    const sums = sumLosses(batch, await tokenLosses(model, batch))
    total.sum += sums.weighted
    total.weight += batch.weight
    total.tokens += batch.weights.length
    total.responseSum += sums.response
    total.responses += sums.responses
    await yieldToEvents()
  }
  await reduceSums(total, communicator)
  if (total.weight === 0)
    throw new PeftError("E_NO_LABELS", `[train] ${name}: no row has anything to predict under this loss mask`)
  const loss = total.sum / total.weight
  return {
    loss,
    perplexity: Math.exp(loss),
    tokens: total.tokens,
    ...(total.responses > 0 ? { response_loss: total.responseSum / total.responses } : {}),
  }
}

async function tokenLosses(model: Model, batch: Batch): Promise<Float32Array> {
  const losses = noGrad(engineOf(model.backend), () => model.losses(modelInput(batch), batch.labels))
  try {
    return (await losses.data()) as Float32Array
  } finally {
    free(losses)
  }
}
