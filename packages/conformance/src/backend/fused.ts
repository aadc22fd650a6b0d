/**
 * Every optional kernel a backend has: against arithmetic on the host, and, through core's operations, against its decomposition, which
 * is the same operation on the same backend with that kernel taken away.
 */
import type { AdamWScalars, Backend, DType, FusedKernels, TypedArray } from "@peftjs/core"
import { check, close } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { numbers } from "./host.ts"
import { attentionBackwardCases, attentionCases } from "./kernel-cases-attention.ts"
import { casesOfRows, type RowKernel } from "./kernel-cases-fused.ts"
import { mapsCases } from "./kernel-cases-map.ts"
import { packedMatmulCases, unpackCases } from "./kernel-cases-packed.ts"
import { sumCases } from "./kernel-cases-sums.ts"
import { checkKernels, type KernelCase } from "./kernel-check.ts"
import { allOpCases } from "./op-cases.ts"
import { type OpCase, runOp } from "./op-check.ts"
import { comparePacked } from "./packed-weights.ts"
import { toleranceOf } from "./tolerances.ts"

const rows = (kernel: RowKernel) => (dtypes: readonly DType[]) => casesOfRows(kernel, dtypes)

/** The cases of each optional kernel. */
export const fusedCases: Readonly<Record<keyof FusedKernels, (dtypes: readonly DType[]) => readonly KernelCase[]>> = {
  maps: () => mapsCases,
  softmax: rows("softmax"),
  logSumExp: rows("logSumExp"),
  softmaxLogSumExp: rows("softmaxLogSumExp"),
  rmsNorm: rows("rmsNorm"),
  rmsNormBackward: rows("rmsNormBackward"),
  layerNorm: rows("layerNorm"),
  layerNormBackward: rows("layerNormBackward"),
  rope: rows("rope"),
  attention: () => attentionCases,
  attentionBackward: () => attentionBackwardCases,
  sumOfProducts: sumCases,
  packedMatmul: (dtypes) => (dtypes.includes("u8") ? packedMatmulCases : []),
  unpack: (dtypes) => (dtypes.includes("u8") ? unpackCases : []),
}
const fusedNames: readonly (keyof FusedKernels)[] = Object.keys(fusedCases) as (keyof FusedKernels)[]

export function fusedChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  for (const kernel of fusedNames) {
    it(`fused ${kernel} equals arithmetic on the host, where there is one`, async () => {
      const backend = await backendOf()
      if (backend.kernels[kernel]) await checkKernels(backend, fusedCases[kernel](backend.supports.dtypes))
    })
    it(`fused ${kernel} equals its decomposition, where there is one`, async () => {
      const backend = await backendOf()
      if (!backend.kernels[kernel]) return
      const { [kernel]: _, ...rest } = backend.kernels
      const plain: Backend = { ...backend, kernels: rest }
      if (kernel === "packedMatmul" || kernel === "unpack") await comparePacked(kernel, backend)
      for (const test of allOpCases.filter((c) => c.fused?.includes(kernel))) await compare(backend, plain, test)
    })
  }
  it("in-place adamw equals its formula, where there is one", async () => {
    const backend = await backendOf()
    if (!backend.kernels.adamw) return
    for (const n of [0, 1, 7, 65]) await checkAdamW(backend, n)
  })
}

async function compare(backend: Backend, plain: Backend, test: OpCase): Promise<void> {
  const [fused, decomposed] = await Promise.all([runOp(backend, test), runOp(plain, test)])
  close(fused.value, decomposed.value, toleranceOf("composed"), test.name)
  for (const [i, gradient] of decomposed.gradients.entries()) {
    if (!gradient) continue
    const found = fused.gradients[i] as TypedArray
    close(found, gradient, toleranceOf("composed"), `${test.name}: gradient of input ${i}`)
  }
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
  const wanted: readonly (readonly [string, ArrayLike<number>, "adamw" | "exact"])[] = [
    ["p", nextP, "adamw"],
    ["g", g, "exact"],
    ["m", nextM, "adamw"],
    ["v", nextV, "adamw"],
    ["a slice of p", p, "exact"],
  ]
  const buffers = [pb, gb, mb, vb, copy]
  const found = await Promise.all(buffers.map((buffer) => backend.read(buffer)))
  for (const [i, [what, expected, tolerance]] of wanted.entries())
    close(found[i] as TypedArray, expected, toleranceOf(tolerance), `adamw of ${n}: ${what}`)
  for (const buffer of buffers) backend.free(buffer)
  check(pb !== copy, "a slice is not a new buffer")
}
