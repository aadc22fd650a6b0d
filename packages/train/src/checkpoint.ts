/**
 * The state of a training run on disk, complete enough that the rest of the run is bit-equal to one that never stopped:
 * trainable values and the optimizer's tensors in f32, and the step. Data order, dropout and schedule are functions of the
 * step, so nothing else changes. A folder step-N is written whole before `latest.json` names it: whenever the process dies,
 * `latest.json` names a complete checkpoint. A base that restarts have merged into lies beside, in base-N of its cycle, once for all
 * checkpoints of that cycle. Must not know how files are stored, or methods.
 */
import type { Shape, Tensor, Trainable, TypedArray } from "@peftjs/core"
import { engineOf, hostValues, PeftError, setValues } from "@peftjs/core"
import type { FileSink, FileSource, LazyTensorInput, TensorSource } from "@peftjs/safetensors"
import { openSafetensors, readText, writeSafetensors, writeText } from "@peftjs/safetensors"
import type { Saved } from "./course.ts"
import type { OptimizerState } from "./optimizer.ts"
import type { SavedBase, Stage } from "./stage.ts"

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
  /** Trainable name → steps of the run done before the optimizer's count for it began; 0 where it is not named. */
  readonly begun: ReadonlyMap<string, number>
}

/** A tensor of the state by its name in the file: on the device, or a copy of it on the host. */
export type StateTensor = readonly [name: string, { readonly shape: Shape; data(): Promise<TypedArray> }]

export interface Position {
  /** Optimizer steps done. */
  readonly step: number
  /** Where that is in the data, for people. */
  readonly epoch: number
  readonly step_in_epoch: number
  /** Of a run with restarts: which it is in, and the folder of the base it stands on where that is no longer the given one. */
  readonly cycle?: number
  readonly base?: string
}

const latestFile = "latest.json"
const stateFile = "state.safetensors"
const baseFile = "base.safetensors"
const folderOf = (step: number): string => `step-${step}`

/** What `latest.json` holds. */
interface Latest {
  readonly step: number
  readonly base?: string
  /** The checkpoint before, which is kept as well. */
  readonly previous?: number
  readonly previous_base?: string
}

/** The step of the latest complete checkpoint, undefined when there is none. Throws E_RESUME when the marker is damaged. */
export async function latestStep(store: CheckpointStore): Promise<number | undefined> {
  return (await readLatest(store))?.step
}

/**
 * Writes a checkpoint and removes all but it and the one before. The base it names must have been written.
 *
 * @throws E_LOSS_NOT_FINITE when a value to be saved is NaN or infinite (nothing is replaced then), and what the store throws
 */
export async function saveCheckpoint(
  store: CheckpointStore,
  position: Position,
  run: RunRecord,
  state: readonly StateTensor[],
): Promise<void> {
  const { step, base } = position
  const folder = folderOf(step)
  await writeFinite(store, `${folder}/${stateFile}`, state, step)
  await writeText(store, `${folder}/trainer_state.json`, json({ version: 1, ...position, run }))
  const before = await readLatest(store)
  const last = before?.step === step ? { step: before.previous, base: before.previous_base } : before
  const previous = {
    ...(last?.step === undefined ? {} : { previous: last.step }),
    ...(last?.base === undefined ? {} : { previous_base: last.base }),
  }
  await writeText(store, latestFile, json({ step, ...(base === undefined ? {} : { base }), ...previous }))
  const steps = [step, last?.step].flatMap((n) => (n === undefined ? [] : [folderOf(n)]))
  await removeOthers(store, [...steps, ...[base, last?.base].flatMap((name) => name ?? [])])
}

/** The folder of the base that a stage stands on; undefined where that is the base as it was given. */
export function baseFolder({ cycle, base }: Stage): string | undefined {
  return base.size === 0 || cycle < 0 ? undefined : `base-${cycle}`
}

/** Writes what restarts have put before the base's values, in f32. Throws as `saveCheckpoint` does. */
export async function saveBase(store: CheckpointStore, stage: Stage, step: number): Promise<void> {
  const engine = engineOf(stage.model.backend)
  const values = [...stage.base].map(([path, value]): StateTensor => {
    return [path, { shape: value.shape, data: () => hostValues(engine, value) }]
  })
  await writeFinite(store, `${baseFolder(stage)}/${baseFile}`, values, step)
}

/**
 * Opens the latest checkpoint.
 *
 * @throws E_RESUME when there is none, or when `run` differs from the checkpoint's (naming each difference); `restore` when the
 * parameters are others; nothing is changed then
 */
export async function openCheckpoint(
  store: CheckpointStore,
  run: RunRecord,
): Promise<Saved & { readonly step: number }> {
  const latest = await readLatest(store)
  if (!latest)
    throw new PeftError("E_RESUME", `[train] ${store.name} has no checkpoint to continue from; start without resuming`)
  const folder = folderOf(latest.step)
  const found = parse(
    await readText(store, `${folder}/trainer_state.json`),
    `${store.name}/${folder}/trainer_state.json`,
  )
  requireSame(found.run as RunRecord, run)
  const { cycle = 0, base } = found as unknown as Position
  return {
    step: latest.step,
    cycle,
    base: await readBase(store, base),
    restore: async (state) => restore(await openSafetensors(await store.open(`${folder}/${stateFile}`)), state),
  }
}

async function readBase(store: CheckpointStore, folder: string | undefined): Promise<SavedBase> {
  if (folder === undefined) return new Map()
  const source = await openSafetensors(await store.open(`${folder}/${baseFile}`))
  const read = (path: string) => async (): Promise<Float32Array> => (await source.read(path)).data as Float32Array
  return new Map([...source.tensors].map(([path, { shape }]) => [path, { shape, read: read(path) }]))
}

async function restore(source: TensorSource, state: RunState): Promise<void> {
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
    const { data } = await source.read(name)
    setValues(target, data as Float32Array)
  }
}

/** Everything that a checkpoint holds. */
export function tensorsOf({ parameters, optimizer }: RunState): [string, Tensor][] {
  return parameters.flatMap(({ name, tensor }) => [
    [`parameter.${name}`, tensor] as [string, Tensor],
    ...Object.entries(optimizer.get(name) ?? {}).map(([slot, t]): [string, Tensor] => [`optimizer.${slot}.${name}`, t]),
  ])
}

async function writeFinite(
  store: CheckpointStore,
  path: string,
  values: readonly StateTensor[],
  step: number,
): Promise<void> {
  const tensors = values.map(([name, t]): [string, LazyTensorInput] => {
    const data = async (): Promise<Float32Array> => requireFinite(name, (await t.data()) as Float32Array, step)
    return [name, { dtype: "F32", shape: t.shape, data }]
  })
  await writeSafetensors(store, path, tensors)
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

async function readLatest(store: CheckpointStore): Promise<Latest | undefined> {
  if (!(await store.has(latestFile))) return undefined
  const found = parse(await readText(store, latestFile), `${store.name}/${latestFile}`)
  if (Number.isInteger(found.step)) return found as unknown as Latest
  throw new PeftError(
    "E_RESUME",
    `[train] ${store.name}/${latestFile} names no step; point it at a step-N folder that is there`,
  )
}

async function removeOthers(store: CheckpointStore, kept: readonly string[]): Promise<void> {
  if (!store.remove || !store.list) return
  const folders = new Set((await store.list()).map((path) => path.split("/")[0] as string))
  for (const folder of folders)
    if (/^(step|base)-\d+$/.test(folder) && !kept.includes(folder)) await store.remove(folder)
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
