/**
 * The view that a cycle trains, and how the next one's is made of it: what the adapters do goes into the base, and adapters start anew on
 * that. The base as it was loaded is never changed: what a merge makes stands before it, in f32 whatever the base is stored in, so that no
 * update is lost to rounding. Must not know optimizers, schedules or files.
 */
import type { Adapter, AdapterMethod, MergePlan, Model, Tensor, Weight } from "@peftjs/core"
import {
  attach,
  bindModel,
  freeAdapter,
  freeValues,
  isTensor,
  keyOf,
  makeAdapterAsync,
  mergedValue,
  mergePlan,
  ownTensors,
  PeftError,
  setValues,
  tensor,
  unfreeze,
  uploadDense,
} from "@peftjs/core"
import { fullCycle } from "./restarts.ts"

/** A parameter. */
export type Value = Tensor | Weight

export interface Stage {
  readonly model: Model
  /** From 0; `fullCycle` while every parameter of the base is trained. */
  readonly cycle: number
  /** What merging and full training have put before the base's own values: path → f32 value. Belongs to the stage. */
  readonly base: ReadonlyMap<string, Value>
}

/** A restart that was made. */
export interface Restarted {
  /** From 1; 0 where adapters begin after full training. */
  readonly cycle: number
  /** Optimizer steps done before it. */
  readonly step: number
  /** Layers merged. */
  readonly sites: number
  /** Largest difference between merged and unmerged layers on random inputs. */
  readonly maxError: number
}

/** Tensors of the methods themselves: what is started anew, as opposed to what is trained beside. */
export function methodTensors({ view }: Model): Set<Tensor> {
  const enabled = view.adapters.filter((a) => a.enabled)
  const params = enabled.flatMap(({ sites }) => [...sites.values()].flatMap((state) => Object.values(state.params)))
  return new Set(params.map(({ value }) => value))
}

/** A stage of which it is not yet certain that the run will go on with it: one of the two is called. */
export interface Start {
  readonly stage: Stage
  /** The model that was given is used up. */
  settle(): void
  /** It is as it was. */
  discard(): void
}

/** The stage a run begins with. */
export function firstStage(cycle: number, given: Model): Start {
  const stage = cycle === fullCycle ? fullStage(given) : { model: given, cycle, base: new Map() }
  return { stage, settle: () => {}, discard: () => freeValues(stage.base.values()) }
}

/** The view of full training: no adapters, every parameter of the base a trained copy. */
function fullStage(given: Model): Stage {
  const { definition, view } = given
  const bare = bindModel(definition, { adapters: [], overlays: view.overlays })
  const trained = new Set([...view.overlays].flatMap(([path, value]) => (isTrained(value) ? [path] : [])))
  const model = unfreeze(bare, (path) => !trained.has(path))
  return { model, cycle: fullCycle, base: new Map([...model.view.overlays].filter(([path]) => !trained.has(path))) }
}

/** From full training to the adapters: the trained copies stay as they are, and adapters are made on them. Uses `given` up. */
export async function beginAdapters(stage: Stage, given: Model, seed: number): Promise<Stage> {
  for (const value of stage.base.values()) for (const t of tensorsOf(value)) t.requiresGrad = false
  const model = await withAdapters(stage.model, given, seedOf(seed, 0), { overlaid: true })
  for (const adapter of given.view.adapters) if (adapter.enabled) freeAdapter(adapter)
  return { ...stage, cycle: 0, model }
}

/** Merges and starts anew. The stage given is used up. Throws what merging throws. */
export async function nextStage(
  { model, ...stage }: Stage,
  seed: number,
): Promise<{ readonly stage: Stage; readonly sites: number; readonly maxError: number }> {
  const plan = mergePlan(model, { overlays: false })
  const base = new Map(stage.base)
  const maxError = await mergeInto(model, plan, base)
  const cycle = stage.cycle + 1
  const bare = bindModel(plan.definition, { adapters: [], overlays: new Map([...model.view.overlays, ...base]) })
  const next = await withAdapters(bare, model, seedOf(seed, cycle), { methodOf: (method) => following(method, cycle) })
  freeMethods(model)
  return { stage: { model: next, cycle, base }, sites: plan.sites.length, maxError }
}

/** The base of a cycle as it was written down. */
export type SavedBase = ReadonlyMap<string, { readonly shape: readonly number[]; read(): Promise<Float32Array> }>

/**
 * The stage of a cycle from the values that its base had; those of its adapters are initial ones. `given` is the model before the run.
 * Throws E_RESUME where the base is another's, and what reading throws.
 */
export async function stageAt(cycle: number, saved: SavedBase, given: Model, seed: number): Promise<Start> {
  const { definition } = mergePlan(given, { overlays: false })
  const base = new Map<string, Value>()
  try {
    for (const [path, { shape, read }] of saved) {
      if (String(definition.params.get(path)?.shape) !== String(shape))
        throw new PeftError(
          "E_RESUME",
          `[train] the saved base has ${path} as [${shape}], which does not fit this model`,
        )
      base.set(path, upload(given, await read(), shape))
    }
    const bare = bindModel(definition, { adapters: [], overlays: new Map([...given.view.overlays, ...base]) })
    const methodOf = (method: AdapterMethod): AdapterMethod =>
      Array.from({ length: cycle }, (_, i) => i + 1).reduce(following, method)
    const model = await withAdapters(bare, given, seedOf(seed, cycle), { methodOf })
    const discard = (): void => {
      freeMethods(model)
      freeValues(base.values())
    }
    return { stage: { model, cycle, base }, settle: () => freeMethods(given), discard }
  } catch (error) {
    freeValues(base.values())
    throw error
  }
}

/** Puts merged values where the layers take theirs from. */
async function mergeInto(model: Model, plan: MergePlan, base: Map<string, Value>): Promise<number> {
  // A head that is parted from its embedding keeps what the two shared.
  const ours = new Set(base.values())
  for (const [path, value] of plan.definition.params) {
    if (!model.params.has(path) && ours.has(value)) base.set(path, value)
  }
  let maxError = 0
  for (const path of plan.changed) {
    const { values, shape, error } = await mergedValue(model, plan, path)
    const own = base.get(path)
    const shared = [...base].some(([other, value]) => other !== path && value === own)
    const target = trainedAt(model, path) ?? (shared ? undefined : own)
    if (target) fill(target, values)
    else base.set(path, upload(model, values, shape))
    maxError = Math.max(maxError, error)
  }
  return maxError
}

/** What is trained itself at a path: it takes the merge up, and goes on being trained. */
function trainedAt({ view }: Model, path: string): Value | undefined {
  const above = view.adapters.findLast((a) => a.enabled && a.overlays.has(path))?.overlays.get(path)
  const value = above ?? view.overlays.get(path)
  return value && isTrained(value) ? value : undefined
}

const tensorsOf = (value: Value): Tensor[] => (isTensor(value) ? [value] : ownTensors(value))
/** Whether training changes it. */
export const isTrained = (value: Value): boolean => tensorsOf(value).some((t) => t.requiresGrad)

function upload({ backend }: Model, values: Float32Array, shape: readonly number[]): Value {
  return shape.length === 2 ? uploadDense(backend, values, "f32", shape) : tensor(backend, values, shape)
}

function fill(target: Value, values: Float32Array): void {
  let at = 0
  for (const part of tensorsOf(target)) {
    setValues(part, values.subarray(at, at + part.size))
    at += part.size
  }
}

interface Anew {
  readonly methodOf?: (method: AdapterMethod) => AdapterMethod
  /** What is trained beside begins with the base's values, too. */
  readonly overlaid?: boolean
}

/** Adapters over a base: new ones for those of `given` that are enabled, with what those train beside. */
async function withAdapters(
  base: Model,
  given: Model,
  seed: number,
  { methodOf = (m) => m, overlaid }: Anew,
): Promise<Model> {
  const made: Adapter[] = []
  let model = base
  try {
    for (const old of given.view.adapters) {
      if (!old.enabled) {
        model = attach(model, old)
        continue
      }
      const options = { name: old.name, seed, ...(overlaid ? { overlays: old.overlayOptions } : {}) }
      const adapter = await makeAdapterAsync(model, methodOf(old.method), [...old.sites.keys()], options)
      made.push(adapter)
      const { overlays, overlayOptions } = overlaid ? adapter : old
      model = attach(model, { ...adapter, overlays, overlayOptions })
    }
    return model
  } catch (error) {
    for (const adapter of made) freeAdapter(adapter)
    throw error
  }
}

const following = (method: AdapterMethod, cycle: number): AdapterMethod => method.restart?.(cycle) ?? method

/** A seed of its own for every cycle. */
function seedOf(seed: number, cycle: number): number {
  const [low, high] = keyOf(seed, "restart", cycle)
  return low + (high & 0x1fffff) * 2 ** 32
}

/** Frees what methods have, and leaves what is trained beside to the adapters that have taken it over. */
function freeMethods({ view }: Model): void {
  for (const adapter of view.adapters) if (adapter.enabled) freeAdapter({ ...adapter, overlays: new Map() })
}
