/** The fake backend with the in-place kernel `adamw`: a buffer's handle stands for another buffer after each update. */
import type { AdamWScalars, DeviceBuffer, MapInput } from "@peftjs/core"
import type { FakeBackend } from "../src/index.ts"

/** With `alsoGradient` the gradient is left scaled, which no one asked for. */
export function withUpdates(sound: FakeBackend, { alsoGradient }: { alsoGradient: boolean }): FakeBackend {
  const current = new Map<DeviceBuffer, DeviceBuffer>()
  const real = (buffer: DeviceBuffer): DeviceBuffer => current.get(buffer) ?? buffer
  const set = (buffer: DeviceBuffer, values: Float32Array): void => {
    const before = real(buffer)
    current.set(buffer, sound.upload(values, "f32"))
    sound.free(before)
  }
  const resolved = (argument: unknown): unknown => {
    if (Array.isArray(argument)) return argument.map(resolved)
    const operand = argument as MapInput
    if (operand?.buffer) return { ...operand, buffer: real(operand.buffer) }
    return current.get(argument as DeviceBuffer) ?? argument
  }
  const kernels = Object.entries(sound.kernels).map(([name, kernel]) => [
    name,
    (...args: readonly unknown[]) => (kernel as (...args: readonly unknown[]) => unknown)(...args.map(resolved)),
  ])
  return {
    ...sound,
    peek: (buffer) => sound.peek(real(buffer)),
    read: (buffer) => sound.read(real(buffer)),
    free(buffer) {
      sound.free(real(buffer))
      current.delete(buffer)
    },
    kernels: {
      ...Object.fromEntries(kernels),
      adamw(p: DeviceBuffer, g: DeviceBuffer, m: DeviceBuffer, v: DeviceBuffer, s: AdamWScalars) {
        const [ps, gs, ms, vs] = [p, g, m, v].map((x) => Float32Array.from(sound.peek(real(x)))) as [
          Float32Array,
          Float32Array,
          Float32Array,
          Float32Array,
        ]
        const scaled = gs.map((x) => x * s.gradScale)
        const nextM = ms.map((x, i) => s.beta1 * x + (1 - s.beta1) * (scaled[i] as number))
        const nextV = vs.map((x, i) => s.beta2 * x + (1 - s.beta2) * (scaled[i] as number) ** 2)
        const step = (i: number): number =>
          (nextM[i] as number) / s.correction1 / (Math.sqrt((nextV[i] as number) / s.correction2) + s.epsilon)
        const decayed = ps.map((x) => x * (1 - s.learningRate * s.weightDecay))
        set(
          p,
          decayed.map((x, i) => x - s.learningRate * step(i)),
        )
        set(m, nextM)
        set(v, nextV)
        if (alsoGradient) set(g, scaled)
      },
    },
  }
}
