/**
 * The state of a training run on disk, complete enough that the rest of the run is bit-equal to one that never stopped:
 * trainable values and the optimizer's tensors in f32, and the step. Data order, dropout and schedule are functions of the
 * step, so nothing else changes. A folder step-N is written whole before `latest.json` names it: whenever the process dies,
 * `latest.json` names a complete checkpoint. Must not know how files are stored, or methods.
 */
import type { Shape, Tensor, Trainable, TypedArray } from "@peftjs/core"
import { assign, noGrad, PeftError, scope, tensor } from "@peftjs/core"
import type { FileSink, FileSource, LazyTensorInput } from "@peftjs/safetensors"
import { openSafetensors, readText, writeSafetensors, writeText } from "@peftjs/safetensors"
import type { OptimizerState } from "./optimizer.ts"

/** A folder for checkpoints. Without `remove`, old ones are kept. */
export interface CheckpointStore extends FileSource, FileSink {
  /** Removes a folder with what is in it. */
  remove?(path: string): Promise<void>
}

/** What must be equal for a run to be continued: flat, by the names that go into messages. */
export type RunRecord = Readonly<Record<string, unknown>>

/** A run's changing part. */
export interface RunState {
  readonly trainables: readonly Trainable[]
  /** The trainables and what methods keep from step to step. */
  readonly parameters: readonly Trainable[]
  readonly optimizer: OptimizerState
}

/** A tensor of the state by its name in the file: on the device, or a copy of it on the host. */
export type StateTensor = readonly [name: string, { readonly shape: Shape; data(): Promise<TypedArray> }]

export interface Position {
  /** Optimizer steps done. */
  readonly step: number
  /** Where that is in the data, for people. */
  readonly epoch: number
  readonly step_in_epoch: number
}

const latestFile = "latest.json"
const folderOf = (step: number): string => `step-${step}`

/** The step of the latest complete checkpoint, undefined when there is none. Throws E_RESUME when the marker is damaged. */
export async function latestStep(store: CheckpointStore): Promise<number | undefined> {
  return (await readLatest(store))?.step
}

/**
 * Writes a checkpoint and removes all but it and the one before.
 *
 * @throws E_LOSS_NOT_FINITE when a value to be saved is NaN or infinite (nothing is replaced then), and what the store throws
 */
export async function saveCheckpoint(
  store: CheckpointStore,
  position: Position,
  run: RunRecord,
  state: readonly StateTensor[],
): Promise<void> {
  const folder = folderOf(position.step)
  const tensors = state.map(([name, t]): [string, LazyTensorInput] => {
    const data = async (): Promise<Float32Array> => requireFinite(name, (await t.data()) as Float32Array, position.step)
    return [name, { dtype: "F32", shape: t.shape, data }]
  })
  await writeSafetensors(store, `${folder}/state.safetensors`, tensors)
  await writeText(store, `${folder}/trainer_state.json`, json({ version: 1, ...position, run }))
  const before = await readLatest(store)
  const previous = before?.step === position.step ? before.previous : before?.step
  await writeText(store, latestFile, json({ step: position.step, ...(previous === undefined ? {} : { previous }) }))
  await removeOthers(store, [position.step, previous])
}

/**
 * Reads the latest checkpoint into the state and returns its step.
 *
 * @throws E_RESUME when there is none, when `run` differs from the checkpoint's (naming each difference), or when the
 * parameters are others; nothing is changed then
 */
export async function loadCheckpoint(store: CheckpointStore, run: RunRecord, state: RunState): Promise<number> {
  const latest = await readLatest(store)
  if (!latest)
    throw new PeftError("E_RESUME", `[train] ${store.name} has no checkpoint to continue from; start without resuming`)
  const folder = folderOf(latest.step)
  const saved = parse(
    await readText(store, `${folder}/trainer_state.json`),
    `${store.name}/${folder}/trainer_state.json`,
  )
  requireSame(saved.run as RunRecord, run)
  const source = await openSafetensors(await store.open(`${folder}/state.safetensors`))
  const wanted = tensorsOf(state)
  const misfits = wanted.filter(([name, t]) => {
    const info = source.tensors.get(name)
    return info?.dtype !== "F32" || String(info.shape) !== String(t.shape)
  })
  if (misfits.length > 0 || source.tensors.size !== wanted.length)
    throw new PeftError(
      "E_RESUME",
      `[train] ${source.name} holds ${source.tensors.size} tensors where the run has ${wanted.length}, and ${misfits.length} of those do not fit${
        misfits[0] ? ` (${misfits[0][0]})` : ""
      }; continue with the model and method it was made with`,
    )
  for (const [name, target] of wanted) {
    const { data, shape } = await source.read(name)
    const { engine } = target
    noGrad(engine, () => scope(engine, () => assign(target, tensor(engine.backend, data as Float32Array, shape))))
  }
  return latest.step
}

/** Everything that a checkpoint holds. */
export function tensorsOf({ parameters, optimizer }: RunState): [string, Tensor][] {
  return parameters.flatMap(({ name, tensor }) => [
    [`parameter.${name}`, tensor] as [string, Tensor],
    ...Object.entries(optimizer.get(name) ?? {}).map(([slot, t]): [string, Tensor] => [`optimizer.${slot}.${name}`, t]),
  ])
}

function requireFinite(name: string, values: Float32Array, step: number): Float32Array {
  if (values.every(Number.isFinite)) return values
  throw new PeftError(
    "E_LOSS_NOT_FINITE",
    `[train] ${name} is no longer finite after step ${step}, so it was not saved; lower the learning rate, and continue from the last checkpoint`,
  )
}

function requireSame(saved: RunRecord, run: RunRecord): void {
  const names = [...new Set([...Object.keys(run), ...Object.keys(saved)])]
  const text = (value: unknown): string => JSON.stringify(value) ?? "nothing"
  const differences = names.filter((name) => text(saved[name]) !== text(run[name]))
  if (differences.length === 0) return
  const list = differences.map((name) => `${name} was ${text(saved[name])}, now ${text(run[name])}`).join("; ")
  throw new PeftError("E_RESUME", `[train] the checkpoint belongs to another run: ${list}; use the same, or start anew`)
}

async function readLatest(store: CheckpointStore): Promise<{ step: number; previous?: number } | undefined> {
  if (!(await store.has(latestFile))) return undefined
  const found = parse(await readText(store, latestFile), `${store.name}/${latestFile}`)
  if (Number.isInteger(found.step)) return found as { step: number; previous?: number }
  throw new PeftError(
    "E_RESUME",
    `[train] ${store.name}/${latestFile} names no step; point it at a step-N folder that is there`,
  )
}

async function removeOthers(store: CheckpointStore, keep: readonly (number | undefined)[]): Promise<void> {
  if (!store.remove || !store.list) return
  const folders = new Set((await store.list()).map((path) => path.split("/")[0] as string))
  const kept = keep.map((step) => (step === undefined ? "" : folderOf(step)))
  for (const folder of folders) if (/^step-\d+$/.test(folder) && !kept.includes(folder)) await store.remove(folder)
}

function parse(text: string, name: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>
  } catch (cause) {
    throw new PeftError("E_RESUME", `[train] ${name} is damaged: ${(cause as Error).message}`, { cause })
  }
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}
