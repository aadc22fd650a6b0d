/** One optimizer step over its micro-batches: gradients, checks, clipping, update, hooks. Leaves everything as it was unless it succeeds. */
import type { Model } from "@peftjs/core"
import { engineOf, noGrad, PeftError, scope } from "@peftjs/core"
import type { Batch } from "./batch.ts"
import type { RunState } from "./checkpoint.ts"
import { type Gradients, sumGradients } from "./gradients.ts"
import { afterStep } from "./hooks.ts"
import { microBatchLoss, yieldToEvents } from "./loss.ts"
import type { StepMetrics } from "./metrics.ts"
import type { SlotTensors } from "./optimizer.ts"
import type { Settings } from "./options.ts"

export interface StepInput {
  readonly model: Model
  readonly state: RunState
  readonly settings: Settings
  readonly batches: readonly Batch[]
  /** Counted from 0. */
  readonly step: number
  readonly learningRate: number
  readonly signal?: AbortSignal | undefined
}

/**
 * Does one optimizer step; undefined when the signal asked to stop before all micro-batches had run (nothing is changed then).
 * Micro-batches without labels are left out; a step without any changes nothing and has loss 0.
 *
 * @throws E_LOSS_NOT_FINITE when a loss or the gradient norm is NaN or infinite; nothing is changed then
 */
export async function optimizerStep(input: StepInput): Promise<StepMetrics | undefined> {
  const { model, state, settings, batches, step, learningRate, signal } = input
  const labelled = batches
    .map((batch, microBatch) => ({ batch, microBatch }))
    .filter(({ batch }) => batch.weights.length > 0)
  const stepWeight = labelled.reduce((sum, { batch }) => sum + batch.weight, 0)
  const gradients = sumGradients(engineOf(model.backend), state.trainables)
  const total = { weighted: 0, response: 0, responses: 0, penalty: 0 }
  try {
    for (const [i, { batch, microBatch }] of labelled.entries()) {
      if (i > 0 && signal?.aborted) return undefined
      const { gradientCheckpointing, seed } = settings
      const run = { training: true, seed, step, microBatch, gradientCheckpointing }
      const result = await microBatchLoss(model, batch, run, { stepWeight, withPenalty: i === 0 })
      gradients.add(result.gradients)
      requireFinite("loss", result.weighted + result.penalty, step)
      total.weighted += result.weighted
      total.response += result.response
      total.responses += result.responses
      total.penalty += result.penalty
      await yieldToEvents()
    }
    const norm = requireFinite("gradient norm", await gradients.norm(), step)
    if (labelled.length > 0) {
      // torch.nn.utils.clip_grad_norm_: the gradients times max / (norm + 1e-6) where that is below 1.
      const { maxGradNorm } = settings
      const gradScale = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1
      update(input, gradients, gradScale)
      await afterStep(model, gradients, { step, gradScale })
    }
    return {
      step: step + 1,
      loss: labelled.length > 0 ? total.weighted / stepWeight + total.penalty : 0,
      ...(total.responses > 0 ? { response_loss: total.response / total.responses } : {}),
      learning_rate: learningRate,
      grad_norm: norm,
      tokens: labelled.reduce((sum, { batch }) => sum + batch.weights.length, 0),
      input_tokens: labelled.reduce((sum, { batch }) => sum + batch.inputTokens, 0),
    }
  } finally {
    gradients.free()
  }
}

function update(
  { model, state, settings, step, learningRate }: StepInput,
  gradients: Gradients,
  gradScale: number,
): void {
  const { optimizer } = settings
  const engine = engineOf(model.backend)
  for (const { name, tensor, decay } of state.trainables) {
    const gradient = gradients.of(tensor)
    if (!gradient) continue
    const slots = state.optimizer.get(name) as SlotTensors
    const how = { count: step + 1 - (state.begun.get(name) ?? 0), learningRate, gradScale, decay }
    noGrad(engine, () => scope(engine, () => optimizer.update(tensor, gradient, slots, how)))
  }
}

function requireFinite(what: string, value: number, step: number): number {
  if (Number.isFinite(value)) return value
  throw new PeftError(
    "E_LOSS_NOT_FINITE",
    `[train] the ${what} of step ${step + 1} is ${value}; the step was not applied. Lower the learning rate, warm up longer or look at the data`,
  )
}
