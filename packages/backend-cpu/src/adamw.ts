/** One AdamW step in place (Loshchilov & Hutter 2019), in the order of operations of PyTorch's AdamW. */
import { type AdamWScalars, type DeviceBuffer, invariant } from "@peftjs/core"
import { f32Of } from "./buffers.ts"

export function adamw(p: DeviceBuffer, g: DeviceBuffer, m: DeviceBuffer, v: DeviceBuffer, scalars: AdamWScalars): void {
  const n = p.length
  invariant(g.length === n && m.length === n && v.length === n, "backend-cpu: adamw's operands differ in length")
  const { learningRate, beta1, beta2, epsilon, weightDecay, correction1, correction2, gradScale } = scalars
  const values = f32Of(p)
  const gradients = f32Of(g)
  const first = f32Of(m)
  const second = f32Of(v)
  const keep = 1 - learningRate * weightDecay
  const step = learningRate / correction1
  const root = Math.sqrt(correction2)
  for (let i = 0; i < n; i++) {
    const gradient = (gradients[i] as number) * gradScale
    const mean = beta1 * (first[i] as number) + (1 - beta1) * gradient
    const square = beta2 * (second[i] as number) + (1 - beta2) * gradient * gradient
    first[i] = mean
    second[i] = square
    values[i] = (values[i] as number) * keep - (step * mean) / (Math.sqrt(square) / root + epsilon)
  }
}
