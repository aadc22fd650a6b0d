/**
 * What an optimizer is: a value that changes one parameter by its gradient, and the tensors it remembers for it.
 * Must not know the trainer, schedules or files. Learning rates arrive with the schedule already applied.
 */
import type { Tensor, Trainable } from "@peftjs/core"
import { free, full, hold, noGrad, scope } from "@peftjs/core"

/** One optimizer step, as a parameter sees it. */
export interface UpdateStep {
  /** Optimizer steps so far with this one: 1, 2 … */
  readonly count: number
  readonly learningRate: number
  /** Multiplies the gradient first (clipping). */
  readonly gradScale: number
  /** Whether weight decay applies to this parameter. */
  readonly decay: boolean
}

export interface Optimizer {
  readonly name: string
  /** Before the schedule. */
  readonly learningRate: number
  /** Every option with its value; survives JSON. */
  readonly config: Readonly<Record<string, number | boolean>>
  /** Names of the tensors kept per parameter; each has the parameter's shape, is f32 and starts as zeros. */
  readonly slots: readonly string[]
  /** Changes the values of `parameter` and `state` in place. Runs inside a scope, unrecorded. */
  update(parameter: Tensor, gradient: Tensor, state: SlotTensors, step: UpdateStep): void
}

export type SlotTensors = Readonly<Record<string, Tensor>>

/** Trainable name → what the optimizer remembers of it. */
export type OptimizerState = ReadonlyMap<string, SlotTensors>

/** Zeros for every slot of every parameter. The tensors are held until `freeState`. */
export function initState(optimizer: Optimizer, trainables: readonly Trainable[]): OptimizerState {
  const zeros = ({ engine, shape }: Tensor): Tensor =>
    noGrad(engine, () => scope(engine, () => hold(full(engine.backend, shape, 0))))
  return new Map(
    trainables.map(({ name, tensor }) => [
      name,
      Object.fromEntries(optimizer.slots.map((slot) => [slot, zeros(tensor)])),
    ]),
  )
}

export function freeState(state: OptimizerState): void {
  for (const slots of state.values()) for (const tensor of Object.values(slots)) free(tensor)
}
