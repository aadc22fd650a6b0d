/**
 * Every optional kernel a backend has: against arithmetic on the host, and, through core's operations, against its decomposition, which
 * is the same operation on the same backend with that kernel taken away.
 */
import type { AdamWScalars, Backend, DType, FusedKernels, Tensor, TypedArray } from "@peftjs/core"
import { engineOf, free, hold, packedWeight, scope, tensor, valueAndGradients } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { numbers } from "./host.ts"
import { attentionBackwardCases, attentionCases } from "./kernel-cases-attention.ts"
import { casesOfRows, type RowKernel } from "./kernel-cases-fused.ts"
import { hostPacked, packedMatmulCases, packedShapes, unpackCases } from "./kernel-cases-packed.ts"
import { checkKernels, type KernelCase } from "./kernel-check.ts"
import { networkCases } from "./op-cases-nn.ts"
import { type OpCase, runOp } from "./op-check.ts"
import { toleranceOf } from "./tolerances.ts"

const rows = (kernel: RowKernel) => (dtypes: readonly DType[]) => casesOfRows(kernel, dtypes)

/** The cases of each optional kernel. */
export const fusedCases: Readonly<Record<keyof FusedKernels, (dtypes: readonly DType[]) => readonly KernelCase[]>> = {
  softmax: rows("softmax"),
  logSumExp: rows("logSumExp"),
  rmsNorm: rows("rmsNorm"),
  rmsNormBackward: rows("rmsNormBackward"),
  layerNorm: rows("layerNorm"),
  layerNormBackward: rows("layerNormBackward"),
  rope: rows("rope"),
  attention: () => attentionCases,
  attentionBackward: () => attentionBackwardCases,
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
      for (const test of networkCases.filter((c) => c.fused?.includes(kernel))) await compare(backend, plain, test)
    })
  }
  it("a packed weight computes alike with its fused kernels and without, in its size, if the backend has u8", async () => {
    const backend = await backendOf()
    if (!backend.supports.dtypes.includes("u8")) return
    const { packedMatmul: _, unpack: __, ...rest } = backend.kernels
    const plain: Backend = { ...backend, kernels: rest }
    for (const shape of packedShapes.filter((s) => s.offset === 0 && s.skip === 0)) {
      const [fused, decomposed] = [await packedResults(backend, shape), await packedResults(plain, shape)]
      for (const [i, values] of decomposed.entries())
        close(fused[i] as TypedArray, values, toleranceOf("matmul"), `packed [${shape.rows}, ${shape.columns}]: ${i}`)
    }
  })

  it("in-place adamw equals its formula, where there is one", async () => {
    const backend = await backendOf()
    if (!backend.kernels.adamw) return
    for (const n of [0, 1, 7, 65]) await checkAdamW(backend, n)
  })
}

/** Both products, the gradient, rows in order and rows by ids of a packed weight. */
async function packedResults(backend: Backend, shape: (typeof packedShapes)[number]): Promise<readonly TypedArray[]> {
  const { layout, codes, scales, nestedScales, minimums, values } = hostPacked(shape)
  const { rows, columns } = shape
  const size = [rows, columns] as const
  const used = codes.subarray(0, Math.ceil((rows * columns * layout.bits) / 8))
  const data = { codes: used, scales, ...(nestedScales ? { nestedScales } : {}), ...(minimums ? { minimums } : {}) }
  const weight = packedWeight(backend, layout, size, data)
  const engine = engineOf(backend)
  const made = scope(engine, () => {
    const x = hold(tensor(backend, numbers("x", 3 * columns), [3, columns]))
    const dy = tensor(backend, numbers("dy", 3 * rows), [3, rows])
    x.requiresGrad = true
    const { value, gradients } = valueAndGradients(engine, () => weight.matmul(x).mul(dy).sum())
    const ids = tensor(backend, Int32Array.of(rows - 1, 0, rows - 1), [3], "i32")
    const rowsOf = weight.rows({ start: 0, end: rows })
    return [x, value, gradients.get(x), weight.matmul(dy, { transpose: true }), rowsOf, weight.rows(ids)] as Tensor[]
  })
  const found = await Promise.all(made.map((t) => t.data()))
  for (const t of made) free(t)
  weight.free()
  same(found[4] as TypedArray, values, `packed [${size}]: rows`)
  close(found[2] as TypedArray, found[3] as TypedArray, toleranceOf("matmul"), `packed [${size}]: gradient`)
  return found
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
