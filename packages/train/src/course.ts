/**
 * The stages of a run, one after the other, with the optimizer's state that goes with each: what a checkpoint is taken of and a step works
 * on. Without restarts there is a single stage, the model as it was given. Must not know data, schedules or files.
 */
import type { Model, Trainable } from "@peftjs/core"
import { parameters, trainables } from "@peftjs/core"
import type { RunState } from "./checkpoint.ts"
import { freeState, initState, type OptimizerState, type SlotTensors } from "./optimizer.ts"
import type { Settings } from "./options.ts"
import { prune } from "./reset.ts"
import { requireNeutralStart, requireRestartable } from "./restart-plan.ts"
import { cycleAt, firstStep, fullCycle, type Restarts } from "./restarts.ts"
import {
  beginAdapters,
  firstStage,
  methodTensors,
  nextStage,
  type Restarted,
  type SavedBase,
  type Stage,
  stageAt,
} from "./stage.ts"

export interface Course {
  readonly stage: Stage
  readonly state: RunState
  /** Merges and starts anew if that is due before the step, counted from 0. */
  advance(step: number): Promise<Restarted | undefined>
  /** Frees the optimizer's state. */
  free(): void
}

/** Where a resumed run goes on. */
export interface Saved {
  readonly cycle: number
  readonly base: SavedBase
  restore(state: RunState): Promise<void>
}

/**
 * The course of a run from its beginning, or from what was saved. If it throws, the model is as it was.
 * Throws E_OPTION, E_NOT_MERGEABLE, E_RESUME, and what reading throws.
 */
export async function startCourse(
  given: Model,
  { optimizer, seed, restart }: Settings,
  saved?: Saved,
): Promise<Course> {
  if (restart) {
    requireRestartable(given, restart.fullSteps)
    await requireNeutralStart(given)
  }
  const stateOf = (stage: Stage, slots?: OptimizerState): RunState => {
    const found = trainables(stage.model)
    return {
      trainables: found,
      parameters: parameters(stage.model),
      optimizer: slots ?? initState(optimizer, found),
      begun: restart ? begunIn(stage, given, restart) : new Map(),
    }
  }
  const begin = restart && restart.fullSteps > 0 ? fullCycle : 0
  const start =
    saved && saved.cycle > begin ? await stageAt(saved.cycle, saved.base, given, seed) : firstStage(begin, given)
  let { stage } = start
  let state = stateOf(stage)
  try {
    await saved?.restore(state)
  } catch (error) {
    freeState(state.optimizer)
    start.discard()
    throw error
  }
  start.settle()
  const restarted = async (step: number, { optimizer: how }: Restarts): Promise<Restarted> => {
    const first = stage.cycle === fullCycle
    const { sites, maxError, ...made } = first
      ? { stage: await beginAdapters(stage, given, seed), sites: 0, maxError: 0 }
      : await nextStage(stage, seed)
    stage = made.stage
    const slots = await carried(state.optimizer, stage, async (name, found) => {
      if (first || how.reset === "reset") return false
      await prune(found, how, { seed, cycle: stage.cycle, name })
      return true
    })
    const fresh = initState(
      optimizer,
      trainables(stage.model).filter(({ name }) => !slots.has(name)),
    )
    state = stateOf(stage, new Map([...slots, ...fresh]))
    return { cycle: stage.cycle, step, sites, maxError }
  }
  return {
    get stage() {
      return stage
    },
    get state() {
      return state
    },
    advance: async (step) => (restart && stage.cycle < cycleAt(restart, step) ? restarted(step, restart) : undefined),
    free: () => freeState(state.optimizer),
  }
}

/** The state of those that are still trained: the adapter's own as `keep` decides, which may change it. Frees what is left behind. */
async function carried(
  state: OptimizerState,
  { model }: Stage,
  keep: (name: string, slots: SlotTensors) => Promise<boolean>,
): Promise<Map<string, SlotTensors>> {
  const kept = new Map<string, SlotTensors>()
  const own = methodTensors(model)
  for (const { name, tensor } of trainables(model)) {
    const slots = state.get(name)
    if (!slots || Object.values(slots).some((slot) => String(slot.shape) !== String(tensor.shape))) continue
    if (!own.has(tensor) || (await keep(name, slots))) kept.set(name, slots)
  }
  freeState(new Map([...state].filter(([name]) => !kept.has(name))))
  return kept
}

/** Trainable name → optimizer steps of the run that its averages do not know of; 0 where it is not named. */
function begunIn({ model, cycle }: Stage, given: Model, restart: Restarts): Map<string, number> {
  if (cycle === fullCycle) return new Map()
  const own = methodTensors(model)
  const since = (trainable: Trainable): number => {
    if (own.has(trainable.tensor)) return firstStep(restart, restart.optimizer.reset === "reset" ? cycle : 0)
    // Trained already in full training, under the same name; rows of tokens have one of their own.
    return given.params.has(trainable.name.replace(/#\d+$/, "")) ? 0 : restart.fullSteps
  }
  return new Map(trainables(model).map((trainable) => [trainable.name, since(trainable)]))
}
