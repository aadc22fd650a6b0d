/** Stochastic gradient descent with PyTorch's meaning of momentum, Nesterov and (coupled) weight decay. */
import type { Tensor } from "@peftjs/core"
import { assign, call, input, map, PeftError, scalar } from "@peftjs/core"
import type { Optimizer } from "./optimizer.ts"
import { requireNumbers } from "./ranges.ts"

export interface SgdOptions {
  /** Default 2e-4. */
  readonly learningRate?: number
  /** Default 0: none. */
  readonly momentum?: number
  /** Looks one step ahead; needs momentum. Default false. */
  readonly nesterov?: boolean
  /** Added to the gradient times the parameter; default 0. */
  readonly weightDecay?: number
}

// Inputs p, g; scalars [gradScale, weightDecay].
const decayed = call("add", call("mul", input(1), scalar(0)), call("mul", input(0), scalar(1)))
// Inputs x, y; scalar s: x + s · y.
const plusScaled = call("add", input(0), call("mul", input(1), scalar(0)))

/**
 * SGD: d ← g + weightDecay · p; b ← momentum · b + d; d ← d + momentum · b (Nesterov) or b; p ← p - lr · d.
 *
 * @throws E_OPTION for numbers out of range, and for nesterov without momentum
 */
export function sgd(options: SgdOptions = {}): Optimizer {
  const { learningRate = 2e-4, momentum = 0, nesterov = false, weightDecay = 0 } = options
  requireNumbers({ learningRate, weightDecay }, (x) => x >= 0, "0 or more")
  requireNumbers({ momentum }, (x) => x >= 0 && x < 1, "at least 0 and below 1")
  if (nesterov && momentum === 0)
    throw new PeftError("E_OPTION", "[train] nesterov needs momentum above 0; give momentum")
  return {
    name: "sgd",
    learningRate,
    config: { learningRate, momentum, nesterov, weightDecay },
    slots: momentum > 0 ? ["momentum"] : [],
    update(p, g, state, step) {
      const direction = map(decayed, [p, g], { scalars: [step.gradScale, step.decay ? weightDecay : 0] })
      const buffer = state.momentum as Tensor | undefined
      if (buffer) assign(buffer, map(plusScaled, [direction, buffer], { scalars: [momentum] }))
      const taken = !buffer
        ? direction
        : nesterov
          ? map(plusScaled, [direction, buffer], { scalars: [momentum] })
          : buffer
      assign(p, map(plusScaled, [p, taken], { scalars: [-step.learningRate] }))
    },
  }
}
