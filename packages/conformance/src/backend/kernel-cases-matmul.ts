/** Cases of `matmul`: every pair of transposition flags, every float type a backend declares. */
import type { DeviceBuffer, DType } from "@peftjs/core"
import { type HalfType, halfTypes, halves } from "./half.ts"
import { at, host, numbers, sum, tabulate } from "./host.ts"
import type { KernelCase } from "./kernel-check.ts"

type Product = readonly [batch: number, m: number, n: number, k: number]
const products: readonly Product[] = [
  [1, 1, 1, 1],
  [1, 0, 3, 2],
  [1, 2, 0, 3],
  [1, 2, 3, 0],
  [0, 2, 3, 4],
  [1, 1, 7, 5],
  [1, 8, 1, 4],
  [1, 5, 5, 5],
  [1, 4, 4, 4],
  [1, 8, 8, 8],
  [3, 5, 3, 7],
  [2, 9, 17, 6],
  [1, 33, 31, 65],
  [1, 2, 65, 33],
  [1, 65, 2, 33],
  [5, 16, 12, 9],
]
const flags = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const

function matmulCase([batch, m, n, k]: Product, transA: boolean, transB: boolean): KernelCase {
  const [a, b] = [numbers("matmul a", batch * m * k), numbers("matmul b", batch * k * n)]
  const x = host(transA ? [batch, k, m] : [batch, m, k], a)
  const y = host(transB ? [batch, n, k] : [batch, k, n], b)
  const term = (c: number, i: number, j: number, p: number): number =>
    (transA ? at(x, c, p, i) : at(x, c, i, p)) * (transB ? at(y, c, j, p) : at(y, c, p, j))
  return {
    label: `matmul of ${batch} [${m}, ${k}]${transA ? "ᵀ" : ""} · [${k}, ${n}]${transB ? "ᵀ" : ""}`,
    inputs: [{ data: a }, { data: b }],
    run: (backend, [p, q]) =>
      backend.kernels.matmul(p as DeviceBuffer, q as DeviceBuffer, { batch, m, n, k, transA, transB }),
    expected: tabulate([batch, m, n], (c, i, j) => sum(k, (p) => term(c, i, j, p))).data,
    tolerance: "matmul",
  }
}

/** f32 rows times a stored matrix of 16 bits, and the two exchanged. */
function halfMatmul(dtype: HalfType, second: boolean): KernelCase {
  const [m, n, k] = [5, 9, 11]
  const float = numbers("half", m * k)
  const { data, values } = halves(n * k, dtype)
  const [x, w] = [host([m, k], float), host([n, k], values)]
  const dot = (i: number, j: number): number => sum(k, (p) => at(x, i, p) * at(w, j, p))
  const dims = { batch: 1, k, transA: false, transB: true }
  return {
    label: second ? `matmul of f32 with ${dtype}` : `matmul of ${dtype} with f32`,
    inputs: second ? [{ data: float }, { data, dtype }] : [{ data, dtype }, { data: float }],
    run: ({ kernels }, [p, q]) =>
      kernels.matmul(p as DeviceBuffer, q as DeviceBuffer, { ...dims, m: second ? m : n, n: second ? n : m }),
    expected: second ? tabulate([m, n], dot).data : tabulate([n, m], (j, i) => dot(i, j)).data,
    tolerance: "matmul",
  }
}

export function matmulCases(dtypes: readonly DType[]): KernelCase[] {
  const stored = halfTypes(dtypes).flatMap((t) => [halfMatmul(t, true), halfMatmul(t, false)])
  return [...products.flatMap((dims) => flags.map(([a, b]) => matmulCase(dims, a, b))), ...stored]
}
