/** One optimizer step over its micro-batches: gradients, checks, clipping, update, hooks. Leaves everything as it was unless it succeeds. */
import type { Communicator, Model, Part } from "@peftjs/core"
import { engineOf, noGrad, PeftError, scope } from "@peftjs/core"
import { type Batch, rowsOf } from "./batch.ts"
import type { RunState } from "./checkpoint.ts"
import { type Gradients, sumGradients } from "./gradients.ts"
import { afterStep } from "./hooks.ts"
import { microBatchLoss, reduceSums, yieldToEvents } from "./loss.ts"
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
  readonly communicator: Communicator
  /** Heeded between micro-batches. Replicas stop between steps, where they can agree. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Does one optimizer step; undefined when the signal asked to stop before all micro-batches had run (nothing is changed then).
 * Micro-batches without labels are left out; a step without any changes nothing and has loss 0.
 *
 * @throws E_LOSS_NOT_FINITE when a loss or the gradient norm is NaN or infinite; nothing is changed then
 */
export async function optimizerStep(input: StepInput): Promise<StepMetrics | undefined> {
  const { model, state, settings, batches, step, learningRate, communicator, signal } = input
  const labelled = batches
    .map((batch, microBatch) => ({ batch, microBatch }))
    .filter(({ batch }) => batch.weights.length > 0)
  const stepWeight = labelled.reduce((sum, { batch }) => sum + batch.weight, 0)
  const gradients = sumGradients(engineOf(model.backend), state.trainables)
  const total = { weighted: 0, response: 0, responses: 0, penalty: 0 }
  try {
    for (const { batch, microBatch, part, withPenalty } of sharesOf(labelled, communicator)) {
      if (microBatch > 0 && signal?.aborted) return undefined
      const { gradientCheckpointing, seed } = settings
      const run = { training: true, seed, step, microBatch, gradientCheckpointing, ...(part ? { part } : {}) }
      const result = await microBatchLoss(model, batch, run, { stepWeight, withPenalty })
      gradients.add(result.gradients)
      if (communicator.size === 1) requireFinite("loss", result.weighted + result.penalty, step)
      total.weighted += result.weighted
      total.response += result.response
      total.responses += result.responses
      total.penalty += result.penalty
      await yieldToEvents()
    }
    await reduceSums(total, communicator)
    requireFinite("loss", total.weighted + total.penalty, step)
    await gradients.reduce(communicator)
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

interface LabelledBatch {
  readonly batch: Batch
  readonly microBatch: number
}

/** What this replica computes of a step: whole micro-batches where it is alone, else its rows of each. One of all carries the penalty. */
function sharesOf(
  labelled: readonly LabelledBatch[],
  { rank, size }: Communicator,
): (LabelledBatch & { readonly part?: Part; readonly withPenalty: boolean })[] {
  if (size === 1) return labelled.map((one, i) => ({ ...one, withPenalty: i === 0 }))
  const all = labelled.flatMap(({ batch, microBatch }) =>
    Array.from({ length: size }, (_, owner) => {
      const [first, end] = [owner, owner + 1].map((r) => Math.floor((r * batch.batch) / size)) as [number, number]
      const part = { first, rows: end - first, of: batch.batch }
      return { batch: rowsOf(batch, part), microBatch, part, owner }
    }),
  )
  return all
    .filter(({ batch }) => batch.weights.length > 0)
    .map(({ owner, ...share }, i) => ({ share: { ...share, withPenalty: i === 0 }, owner }))
    .flatMap(({ share, owner }) => (owner === rank ? [share] : []))
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
