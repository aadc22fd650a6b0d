/** AdamW: Loshchilov & Hutter 2019, "Decoupled weight decay regularization", with PyTorch's defaults and order of operations. */
import type { DeviceBuffer, Expr, Tensor } from "@peftjs/core"
import { assign, bufferOf, call, input, invariant, map, scalar } from "@peftjs/core"
import type { Optimizer } from "./optimizer.ts"
import { requireNumbers } from "./ranges.ts"

export interface AdamWOptions {
  /** Default 2e-4. */
  readonly learningRate?: number
  /** Decay of the mean of gradients, default 0.9. */
  readonly beta1?: number
  /** Decay of the mean of squares, default 0.999. */
  readonly beta2?: number
  /** Added to the root, outside of it; default 1e-8. */
  readonly epsilon?: number
  /** Decoupled: shrinks parameters by learningRate · weightDecay per step; default 0. */
  readonly weightDecay?: number
}

// Scalars of the two means: [1 - beta, beta, gradScale].
const scaledGrad = call("mul", input(1), scalar(2))
const nextMean = mean(scaledGrad)
const nextSquare = mean(call("mul", scaledGrad, scaledGrad))
// Scalars: [shrink, stepSize, root of correction2, epsilon].
const denominator = call("add", call("div", call("sqrt", input(2)), scalar(2)), scalar(3))
const nextParameter = call(
  "sub",
  call("mul", input(0), scalar(0)),
  call("mul", scalar(1), call("div", input(1), denominator)),
)

function mean(value: Expr): Expr {
  return call("add", call("mul", input(0), scalar(1)), call("mul", value, scalar(0)))
}

/**
 * AdamW. With g the scaled gradient and t the step:
 * p ← p · (1 - lr · weightDecay); m ← β1 · m + (1 - β1) · g; v ← β2 · v + (1 - β2) · g²;
 * p ← p - lr / (1 - β1^t) · m / (√v / √(1 - β2^t) + ε).
 *
 * @throws E_OPTION for numbers out of range
 */
export function adamw(options: AdamWOptions = {}): Optimizer {
  const { learningRate = 2e-4, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = options
  requireNumbers({ learningRate, epsilon, weightDecay }, (x) => x >= 0, "0 or more")
  requireNumbers({ beta1, beta2 }, (x) => x >= 0 && x < 1, "at least 0 and below 1")
  return {
    name: "adamw",
    learningRate,
    config: { learningRate, beta1, beta2, epsilon, weightDecay },
    slots: ["m", "v"],
    update(p, g, state, step) {
      const [m, v] = [state.m as Tensor, state.v as Tensor]
      const correction1 = 1 - beta1 ** step.count
      const correction2 = 1 - beta2 ** step.count
      const decay = step.decay ? weightDecay : 0
      const { learningRate: rate, gradScale } = step
      const { kernels } = p.engine.backend
      if (kernels.adamw) {
        const scalars = {
          learningRate: rate,
          beta1,
          beta2,
          epsilon,
          weightDecay: decay,
          correction1,
          correction2,
          gradScale,
        }
        kernels.adamw(owned(p), bufferOf(g), owned(m), owned(v), scalars)
        return
      }
      assign(m, map(nextMean, [m, g], { scalars: [1 - beta1, beta1, gradScale] }))
      assign(v, map(nextSquare, [v, g], { scalars: [1 - beta2, beta2, gradScale] }))
      const scalars = [1 - rate * decay, rate / correction1, Math.sqrt(correction2), epsilon]
      assign(p, map(nextParameter, [p, m, v], { scalars }))
    },
  }
}

// Writing in place changes whatever shares the buffer, so nothing may.
function owned(tensor: Tensor): DeviceBuffer {
  invariant(tensor.storage.refs === 1, "an optimizer writes to a tensor that is still in use")
  return bufferOf(tensor)
}
