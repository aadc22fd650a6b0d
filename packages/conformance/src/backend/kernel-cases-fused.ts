/** Cases of the optional kernels over rows, as kernels: what operations made of them cannot see (arguments written or handed out) shows here. */
import type { Backend, DeviceBuffer, DType, TypedArray } from "@peftjs/core"
import { halfTypes, halves } from "./half.ts"
import { numbers } from "./host.ts"
import * as host from "./host-rows.ts"
import type { KernelCase } from "./kernel-check.ts"
import type { ToleranceOp } from "./tolerances.ts"

export type RowSizes = readonly [rows: number, n: number]
const rowSizes: readonly RowSizes[] = [
  [0, 3],
  [1, 1],
  [3, 7],
  [2, 65],
  [5, 64],
  [2, 257],
  [33, 4],
]

type Input = KernelCase["inputs"][number]

/** A case of a kernel of the backend's, which the caller has seen to be there. */
function fused(
  label: string,
  inputs: readonly (TypedArray | Input)[],
  run: (
    kernels: Required<Backend["kernels"]>,
    buffers: readonly [DeviceBuffer, DeviceBuffer, DeviceBuffer],
  ) => DeviceBuffer,
  expected: ArrayLike<number>,
  tolerance: ToleranceOp,
): KernelCase {
  return {
    label,
    inputs: inputs.map((x) => ("data" in x ? x : { data: x })),
    run: ({ kernels }, buffers) => run(kernels as Required<Backend["kernels"]>, buffers as never),
    expected,
    tolerance,
  }
}

function softmaxCase([rows, n]: RowSizes, high: number): KernelCase {
  const x = numbers("rows", rows * n, -high, high)
  const expected = host.softmaxRows(x, { rows, n })
  return fused(`softmax [${rows}, ${n}] up to ${high}`, [x], (k, [a]) => k.softmax(a, rows, n), expected, "softmax")
}

function logSumExpCase([rows, n]: RowSizes, x: Float32Array, what: string): KernelCase {
  const expected = host.logSumExpRows(x, { rows, n })
  return fused(`logSumExp [${rows}, ${n}] ${what}`, [x], (k, [a]) => k.logSumExp(a, rows, n), expected, "logSumExp")
}

/** Each of the two results; the other is given back. */
function bothCases([rows, n]: RowSizes, high: number): KernelCase[] {
  const x = numbers("rows", rows * n, -high, high)
  const expected = [host.softmaxRows(x, { rows, n }), host.logSumExpRows(x, { rows, n })] as const
  return (["softmax", "logSumExp"] as const).map((what, i) => ({
    label: `softmaxLogSumExp [${rows}, ${n}] up to ${high}: ${what}`,
    inputs: [{ data: x }],
    run(backend, [a]) {
      const results = (backend.kernels as Required<Backend["kernels"]>).softmaxLogSumExp(a as DeviceBuffer, rows, n)
      backend.free(results[1 - i] as DeviceBuffer)
      return results[i] as DeviceBuffer
    },
    expected: expected[i] as ArrayLike<number>,
    tolerance: what,
  }))
}

const eps = 1e-5
const around1 = (n: number): Float32Array => numbers("weight", n, 0.5, 1.5)

function rmsNormCase([rows, n]: RowSizes): KernelCase {
  const [x, w] = [numbers("rows", rows * n), around1(n)]
  const dims = { rows, n, eps }
  const expected = host.rmsNormRows(x, w, dims)
  return fused(`rmsNorm [${rows}, ${n}]`, [x, w], (k, [a, b]) => k.rmsNorm(a, b, dims), expected, "norm")
}

function rmsNormBackwardCase([rows, n]: RowSizes): KernelCase {
  const [x, w, dy] = [numbers("rows", rows * n), around1(n), numbers("dy", rows * n)]
  const dims = { rows, n, eps: 0.1 }
  const expected = host.rmsNormBackwardRows(x, w, dy, dims)
  const label = `rmsNormBackward [${rows}, ${n}]`
  return fused(label, [x, w, dy], (k, [a, b, c]) => k.rmsNormBackward(a, b, c, dims), expected, "norm")
}

function layerNormCase([rows, n]: RowSizes): KernelCase {
  const [x, w, bias] = [numbers("rows", rows * n, 1, 3), around1(n), numbers("bias", n)]
  const dims = { rows, n, eps }
  const expected = host.layerNormRows(x, w, bias, dims)
  const label = `layerNorm [${rows}, ${n}]`
  return fused(label, [x, w, bias], (k, [a, b, c]) => k.layerNorm(a, b, c, dims), expected, "norm")
}

function layerNormBackwardCase([rows, n]: RowSizes): KernelCase {
  const [x, w, dy] = [numbers("rows", rows * n, 1, 3), around1(n), numbers("dy", rows * n)]
  const dims = { rows, n, eps: 0.1 }
  const expected = host.layerNormBackwardRows(x, w, dy, dims)
  const label = `layerNormBackward [${rows}, ${n}]`
  return fused(label, [x, w, dy], (k, [a, b, c]) => k.layerNormBackward(a, b, c, dims), expected, "norm")
}

/** A norm's weight as it is stored in files. */
function storedWeight(dtype: "f16" | "bf16"): KernelCase {
  const dims = { rows: 3, n: 7, eps }
  const x = numbers("rows", 21)
  const { data, values } = halves(7, dtype)
  const expected = host.rmsNormRows(x, values, dims)
  const inputs = [x, { data, dtype }]
  return fused(`rmsNorm, weight of ${dtype}`, inputs, (k, [a, b]) => k.rmsNorm(a, b, dims), expected, "norm")
}

type RopeSizes = readonly [outer: number, rows: number, tokens: number, heads: number, dim: number]
const ropeSizes: readonly RopeSizes[] = [
  [0, 1, 3, 2, 4],
  [1, 1, 1, 1, 2],
  [2, 1, 3, 2, 6],
  [2, 2, 5, 3, 10],
  [3, 1, 7, 1, 64],
]

function ropeCase([outer, rows, tokens, heads, dim]: RopeSizes): KernelCase {
  const half = dim / 2
  const x = numbers("rope", outer * tokens * heads * dim)
  const [cos, sin] = [numbers("cos", rows * tokens * half), numbers("sin", rows * tokens * half)]
  const expected = Float64Array.from(x, (value, position) => {
    const [d, token] = [position % dim, Math.floor(position / (heads * dim)) % tokens]
    const row = rows === 1 ? 0 : Math.floor(position / (tokens * heads * dim))
    const angle = (row * tokens + token) * half + (d % half)
    const [c, s] = [cos[angle] as number, sin[angle] as number]
    return d < half ? value * c - (x[position + half] as number) * s : value * c + (x[position - half] as number) * s
  })
  const dims = { outer, rows, tokens, heads, dim }
  const label = `rope [${outer}, ${tokens}, ${heads}, ${dim}], ${rows} rows of angles`
  return fused(label, [x, cos, sin], (k, [a, b, c]) => k.rope(a, b, c, dims), expected, "rope")
}

export type RowKernel =
  | "softmax"
  | "logSumExp"
  | "softmaxLogSumExp"
  | "rmsNorm"
  | "rmsNormBackward"
  | "layerNorm"
  | "layerNormBackward"
  | "rope"

const logSumExpOf = (s: RowSizes, high: number): KernelCase =>
  logSumExpCase(s, numbers("rows", s[0] * s[1], -high, high), `up to ${high}`)

/** Cases of each kernel over rows of given sizes. */
export const rowCases: Readonly<Record<RowKernel, (sizes: readonly RowSizes[]) => readonly KernelCase[]>> = {
  softmax: (sizes) => sizes.flatMap((s) => [softmaxCase(s, 1), softmaxCase(s, 120)]),
  logSumExp: (sizes) => sizes.flatMap((s) => [logSumExpOf(s, 1), logSumExpOf(s, 120)]),
  softmaxLogSumExp: (sizes) => sizes.flatMap((s) => [...bothCases(s, 1), ...bothCases(s, 120)]),
  rmsNorm: (sizes) => sizes.map(rmsNormCase),
  rmsNormBackward: (sizes) => sizes.map(rmsNormBackwardCase),
  layerNorm: (sizes) => sizes.map(layerNormCase),
  layerNormBackward: (sizes) => sizes.map(layerNormBackwardCase),
  rope: (sizes) => sizes.map(([rows, n]) => ropeCase([rows, 1, 1, 1, 2 * n])),
}

const low = Number.NEGATIVE_INFINITY

/** Cases beside those of the row sizes. */
const special: Readonly<Partial<Record<RowKernel, readonly KernelCase[]>>> = {
  logSumExp: [
    logSumExpCase([3, 0], new Float32Array(0), "of nothing"),
    logSumExpCase([3, 2], Float32Array.of(low, low, 1, low, 3, 4), "with -Infinity"),
  ],
  rope: ropeSizes.map(ropeCase),
}

/** All cases of a kernel over rows, of ordinary size. */
export function casesOfRows(kernel: RowKernel, dtypes: readonly DType[]): readonly KernelCase[] {
  const stored = kernel === "rmsNorm" ? halfTypes(dtypes).map(storedWeight) : []
  return [...rowCases[kernel](rowSizes), ...(special[kernel] ?? []), ...stored]
}
