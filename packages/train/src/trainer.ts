/**
 * The training loop: which rows make which step, when to save, when to stop. Knows neither models nor methods: whatever is
 * trainable in the view it is given gets trained. Every step is a function of its number, so a run can start at any.
 */
import type { Communicator, Model } from "@peftjs/core"
import { alone, isTensor, PeftError, setValues, trainables } from "@peftjs/core"
import { tensorBytes } from "@peftjs/safetensors"
import { type Batch, collate, epochOrder, groupRows, groupsPerEpoch } from "./batch.ts"
import {
  baseFolder,
  type CheckpointStore,
  openCheckpoint,
  type Position,
  type RunRecord,
  saveBase,
  saveCheckpoint,
  tensorsOf,
} from "./checkpoint.ts"
import { type Course, startCourse } from "./course.ts"
import { copyToHost, type HostCopy, isDeviceError, stoppedBy } from "./device-loss.ts"
import { encodeRow } from "./encode.ts"
import { type EvaluateResult, evaluate } from "./evaluate.ts"
import { padIdOf, reduceSums } from "./loss.ts"
import type { StepMetrics } from "./metrics.ts"
import { learningRateOf, type Settings, settle, type TrainOptions } from "./options.ts"
import { type Data, fingerprint } from "./rows.ts"
import { optimizerStep } from "./step.ts"

export interface TrainResult {
  /** The view in use at the end: the one given, or with `restart` the adapter of the last cycle over the base it stands on. */
  readonly model: Model
  /** Optimizer steps done, with those before resuming. */
  readonly steps: number
  readonly totalSteps: number
  /** The signal asked to stop; with checkpoints, training continues from here with `resume`. */
  readonly interrupted: boolean
  /** Of the last step that was done now; absent when none was. */
  readonly metrics?: StepMetrics
  /** Of the last evaluation. */
  readonly evaluation?: EvaluateResult
}

/**
 * Trains everything trainable in the model's view, in place, and returns when the steps are done or the signal asks to stop.
 * The loss is the mean over all tokens that count in an optimizer step, however they are spread over micro-batches.
 *
 * @throws E_OPTION, E_SCHEDULE, E_NOT_MERGEABLE of what shall restart, E_NO_GRAD when nothing is trainable, E_NO_LABELS when no row has anything to learn,
 * E_LOSS_NOT_FINITE (the model keeps the values before that step), E_RESUME, what reading rows throws, and E_DEVICE_LOST,
 * E_OUT_OF_MEMORY or E_KERNEL of the device, whose message names the step of the checkpoint that is kept (`snapshotSteps`)
 */
export async function train(
  model: Model,
  data: Data | Promise<Data>,
  options: TrainOptions = {},
): Promise<TrainResult> {
  const settings = settle(options, model.view.adapters.find((a) => a.enabled)?.method.learningRate)
  const examples = await data
  const evalData = await options.evalData
  const { rows } = examples
  const { tokenizer = model.tokenizer, maxSteps, epochs = 1, checkpoints, saveSteps, evalSteps, signal } = options
  const { communicator = alone } = options
  const first = communicator.rank === 0
  // A device that cannot be lost costs no copies.
  const copySteps = model.backend.lost && checkpoints && first ? (options.snapshotSteps ?? 10) : 0
  const perEpoch = groupsPerEpoch(rows.length, settings)
  const totalSteps = maxSteps ?? Math.ceil(epochs * perEpoch)
  const learningRate = learningRateOf(settings, totalSteps)
  if (trainables(model).length === 0)
    throw new PeftError(
      "E_NO_GRAD",
      "[train] nothing in the model is trainable; adapt it, enable its adapter or unfreeze it",
    )
  const encode = (row: number): ReturnType<typeof encodeRow> =>
    encodeRow(rows[row] as Data["rows"][number], tokenizer, settings, `${examples.name}, row ${row + 1}`)
  if (!rows.some((_, row) => encode(row).labels.some((label, i) => i > 0 && label !== -100)))
    throw new PeftError(
      "E_NO_LABELS",
      `[train] ${examples.name}: no row has anything to learn (loss mask ${settings.lossMask}, cut at ${settings.maxLength} tokens)`,
    )
  const run = recordOf(model, examples, settings, totalSteps)
  let step = 0
  let saved: number | undefined
  let copy: HostCopy | undefined
  let course: Course | undefined
  try {
    const found = options.resume && checkpoints ? await openCheckpoint(checkpoints, run) : undefined
    course = await startCourse(model, settings, found)
    if (found) saved = step = found.step
    // Nobody may remove what another still reads.
    await equalise(tensorsOf(course.state), communicator)
    let metrics: StepMetrics | undefined
    let evaluation: EvaluateResult | undefined
    let order = { epoch: -1, rows: [] as number[] }
    const at = course
    let written: string | undefined
    /** The base lies there before a checkpoint names it. */
    const position = async (store: CheckpointStore): Promise<Position> => {
      const base = baseFolder(at.stage)
      if (base !== undefined && base !== written) await saveBase(store, at.stage, step)
      written = base
      return {
        ...{ step, epoch: Math.floor(step / perEpoch), step_in_epoch: step % perEpoch },
        ...(settings.restart ? { cycle: at.stage.cycle } : {}),
        ...(base === undefined ? {} : { base }),
      }
    }
    const save = async (): Promise<void> => {
      if (!first || !checkpoints || saved === step) return
      await saveCheckpoint(checkpoints, await position(checkpoints), run, tensorsOf(at.state))
      saved = step
      copy = undefined
      await options.onSave?.(step, at.stage.model)
    }
    const batchesOf = (): Batch[] => {
      const epoch = Math.floor(step / perEpoch)
      if (order.epoch !== epoch) order = { epoch, rows: epochOrder(rows.length, epoch, settings) }
      return groupRows(order.rows, step % perEpoch, settings).map((group) =>
        collate(group.map(encode), padIdOf(tokenizer)),
      )
    }
    const result = (interrupted: boolean): TrainResult => ({
      model: at.stage.model,
      steps: step,
      totalSteps,
      interrupted,
      ...(metrics ? { metrics } : {}),
      ...(evaluation ? { evaluation } : {}),
    })
    while (step < totalSteps) {
      const stop = await anyOf(signal?.aborted, communicator)
      const restarted = stop ? undefined : await at.advance(step)
      if (restarted) await options.onRestart?.(restarted, at.stage.model)
      const done = stop
        ? undefined
        : await optimizerStep({
            ...{ model: at.stage.model, state: at.state, settings, step, communicator },
            signal: communicator.size === 1 ? signal : undefined,
            batches: batchesOf(),
            learningRate: learningRate(step),
          })
      if (!done) {
        await save()
        return result(true)
      }
      metrics = done
      step++
      await options.onStep?.(done, at.stage.model)
      const last = step === totalSteps
      if (saveSteps !== undefined && (last || step % saveSteps === 0)) await save()
      if (checkpoints && copySteps > 0 && step % copySteps === 0 && saved !== step)
        copy = await copyToHost(await position(checkpoints), tensorsOf(at.state))
      if (evalData && (last || (evalSteps !== undefined && step % evalSteps === 0))) {
        evaluation = await evaluate(at.stage.model, evalData, {
          ...settings,
          communicator,
          ...(tokenizer ? { tokenizer } : {}),
        })
        await options.onEvaluate?.(evaluation, step)
      }
    }
    return result(false)
  } catch (error) {
    const begun = !options.resume || saved !== undefined
    if (!begun || !isDeviceError(error)) throw error
    const write = ({ position, tensors }: HostCopy): Promise<void> =>
      saveCheckpoint(checkpoints as CheckpointStore, position, run, tensors)
    throw await stoppedBy(error, { step, saved, copy, write })
  } finally {
    course?.free()
  }
}

/** Whether it is so in one replica. */
async function anyOf(here: boolean | undefined, communicator: Communicator): Promise<boolean> {
  const sums = { here: here ? 1 : 0 }
  await reduceSums(sums, communicator)
  return sums.here > 0
}

/** Gives all replicas the values of rank 0: those of trained parameters and of the optimizer. */
async function equalise(tensors: ReturnType<typeof tensorsOf>, communicator: Communicator): Promise<void> {
  if (communicator.size === 1) return
  for (const [, tensor] of tensors) {
    const values = (await tensor.data()) as Float32Array
    await communicator.broadcast([values])
    setValues(tensor, values)
  }
}

/** How the base is packed: layers and bytes by format, as files hold them, so that they are the same on every backend. */
function packedIn({ params }: Model): Record<string, { layers: number; bytes: number }> {
  const found: Record<string, { layers: number; bytes: number }> = {}
  for (const value of params.values()) {
    if (isTensor(value) || !value.stored) continue
    const { layers, bytes } = found[value.format] ?? { layers: 0, bytes: 0 }
    const own = [...value.stored.values()].reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0)
    found[value.format] = { layers: layers + 1, bytes: bytes + own }
  }
  return found
}

/** What decides a run's numbers, for telling whether a checkpoint is this run's. */
function recordOf(model: Model, data: Data, settings: Settings, totalSteps: number): RunRecord {
  const { optimizer, gradientCheckpointing, ...numbers } = settings
  const weights = packedIn(model)
  return {
    data: { rows: data.rows.length, fingerprint: fingerprint(data.rows) },
    ...(Object.keys(weights).length > 0 ? { weights } : {}),
    base: fingerprint([model.config]),
    method: model.view.adapters
      .filter((a) => a.enabled)
      .map(({ name, method, overlayOptions }) => ({ name, method: method.name, ...method.config, ...overlayOptions })),
    steps: totalSteps,
    optimizer: { name: optimizer.name, ...optimizer.config },
    ...numbers,
  }
}
