/** The ways of fine-tuning that are compared, each a name and how a model becomes trainable by it. Must not know data. */
import {
  type AdapterMethod,
  type AdaptOptions,
  adapt,
  detach,
  detachOverlays,
  type Model,
  trainables,
  unfreeze,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { mora } from "@peftjs/mora"
import type { TrainOptions } from "@peftjs/train"

export interface Variant {
  /** As in tables: "LoRA r 2". */
  readonly name: string
  /** Variants of one family share their first learning rates: MoRA's differ with r. */
  readonly rates: readonly number[]
  make(base: Model, seed: number): Model
  /** What training is told besides. */
  readonly training?: TrainOptions
}

/** Full fine-tuning. */
export function full(rates: readonly number[]): Variant {
  return { name: "FFT", rates, make: (base) => unfreeze(base) }
}

/** A method on all linear layers of the blocks. */
export function adapted(
  name: string,
  method: () => AdapterMethod,
  rates: readonly number[],
  options: AdaptOptions & { readonly training?: TrainOptions } = {},
): Variant {
  const { training, ...beside } = options
  return {
    ...{ name, rates },
    make: (base, seed) => adapt(base, method(), { targetModules: "all-linear", seed, ...beside }),
    ...(training ? { training } : {}),
  }
}

/** LoRA with alpha = 2r. */
export const loraOf = (r: number, dora = false): AdapterMethod => lora({ r, alpha: 2 * r, dora })
/** MoRA as the paper advises: rotation for small r, sharing for large. */
export const moraOf = (r: number, size: "small" | "large"): AdapterMethod =>
  mora({ r, type: size === "small" ? "rotation" : "sharing" })

export function trainableParameters(model: Model): number {
  return trainables(model).reduce((sum, { tensor }) => sum + tensor.size, 0)
}

/** Gives back what a variant put on its base. */
export function release(model: Model): void {
  let left = model
  while (left.view.adapters.length > 0) left = detach(left, left.view.adapters.at(-1)?.name ?? "default")
  if (left.view.overlays.size > 0) detachOverlays(left)
}
