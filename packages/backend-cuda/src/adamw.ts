/**
 * One AdamW step (Loshchilov & Hutter 2019) by plain ops. TensorFlow's ResourceApplyAdam does it in one, but takes 1 - beta2 from a beta2 in f32,
 * which makes the second moment wrong by 1e-5 of itself where beta2 is 0.999.
 */
import { type InPlaceKernels, invariant } from "@peftjs/core"
import { add, binary, mul, sub, unary } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import type { TfTensor } from "./tf-runtime.ts"

export function createAdamW(device: Device): InPlaceKernels["adamw"] {
  return (p, g, m, v, scalars) => {
    const n = p.length
    invariant(g.length === n && m.length === n && v.length === n, "backend-cuda: adamw's operands differ in length")
    if (n === 0) return
    const { learningRate, beta1, beta2, epsilon, weightDecay, correction1, correction2, gradScale } = scalars
    const root = Math.sqrt(correction2)
    device.update(
      () => `adamw of ${n}`,
      [p, m, v],
      (ops) => {
        const gradient = ops.any(g)
        const [value, first, second] = [p, m, v].map((x) => ops.of(x, gradient.shape)) as [never, never, never]
        const square = unary(ops, "Square", gradient)
        const scale = (x: TfTensor, factor: number): TfTensor => mul(ops, x, ops.scalar(factor))
        const mean = add(ops, scale(first, beta1), scale(gradient, gradScale * (1 - beta1)))
        const spread = add(ops, scale(second, beta2), scale(square, gradScale * gradScale * (1 - beta2)))
        // √(v / correction2) + epsilon, both sides of the quotient times √correction2.
        const under = add(ops, unary(ops, "Sqrt", spread), ops.scalar(epsilon * root))
        const step = scale(binary(ops, "RealDiv", mean, under), (learningRate * root) / correction1)
        const decayed = weightDecay === 0 ? value : scale(value, 1 - learningRate * weightDecay)
        return [sub(ops, decayed, step), mean, spread]
      },
    )
  }
}
