/** Every optional kernel a backend has, against its decomposition: the same operation on the same backend with that kernel taken away. */
import type { AdamWScalars, Backend, TypedArray } from "@peftjs/core"
import { check, close } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { numbers } from "./host.ts"
import { networkCases } from "./op-cases-nn.ts"
import { runOp } from "./op-check.ts"
import { tolerances } from "./tolerances.ts"

export function fusedChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  for (const kernel of ["softmax", "rmsNorm", "rmsNormBackward", "attention", "attentionBackward"] as const) {
    it(`fused ${kernel} equals its decomposition`, async () => {
      const backend = await backendOf()
      if (!backend.kernels[kernel]) return
      const { [kernel]: _, ...rest } = backend.kernels
      const plain: Backend = { ...backend, kernels: rest }
      for (const test of networkCases.filter((c) => c.fused?.includes(kernel))) {
        const [fused, decomposed] = [await runOp(backend, test), await runOp(plain, test)]
        close(fused.value, decomposed.value, tolerances.composed, test.name)
        for (const [i, gradient] of decomposed.gradients.entries()) {
          if (gradient)
            close(
              fused.gradients[i] as TypedArray,
              gradient,
              tolerances.composed,
              `${test.name}: gradient of input ${i}`,
            )
        }
      }
    })
  }

  it("in-place adamw equals its formula", async () => {
    const backend = await backendOf()
    if (!backend.kernels.adamw) return
    for (const n of [0, 1, 7, 65]) await checkAdamW(backend, n)
  })
}

async function checkAdamW(backend: Backend, n: number): Promise<void> {
  const s: AdamWScalars = {
    learningRate: 0.1,
    beta1: 0.9,
    beta2: 0.99,
    epsilon: 1e-3,
    weightDecay: 0.05,
    correction1: 1 - 0.9 ** 3,
    correction2: 1 - 0.99 ** 3,
    gradScale: 0.5,
  }
  const [p, g, m] = ["p", "g", "m"].map((name) => numbers(name, n)) as [Float32Array, Float32Array, Float32Array]
  const v = numbers("v", n, 0, 1)
  const [pb, gb, mb, vb] = [p, g, m, v].map((data) => backend.upload(data, "f32")) as [never, never, never, never]
  const copy = backend.kernels.slice(pb, { outer: 1, n, inner: 1, start: 0, length: n })
  backend.kernels.adamw?.(pb, gb, mb, vb, s)
  const scaled = Array.from(g, (x) => x * s.gradScale)
  const nextM = Array.from(m, (x, i) => s.beta1 * x + (1 - s.beta1) * (scaled[i] as number))
  const nextV = Array.from(v, (x, i) => s.beta2 * x + (1 - s.beta2) * (scaled[i] as number) ** 2)
  const moved = (i: number): number =>
    (s.learningRate * ((nextM[i] as number) / s.correction1)) /
    (Math.sqrt((nextV[i] as number) / s.correction2) + s.epsilon)
  const nextP = Array.from(p, (x, i) => x * (1 - s.learningRate * s.weightDecay) - moved(i))
  const wanted = [nextP, g, nextM, nextV, p] as const
  for (const [i, buffer] of [pb, gb, mb, vb, copy].entries()) {
    close(
      await backend.read(buffer),
      wanted[i] as ArrayLike<number>,
      i === 1 || i === 4 ? 0 : tolerances.sum,
      `adamw of ${n}: ${["p", "g", "m", "v", "a slice of p"][i]}`,
    )
    backend.free(buffer)
  }
  check(pb !== copy, "a slice is not a new buffer")
}
