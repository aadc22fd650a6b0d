/** Products too small to be worth packing or a call into a library: the sums as they are written in a textbook. */
import type { Matrix } from "./gemm.ts"
import { f16Table } from "./half.ts"

/** Multiplications below which the plain loop wins. */
const limit = 2048

export function isSmall(m: number, n: number, k: number): boolean {
  return m * n * k <= limit
}

/** As Gemm's run. */
export function smallProduct(
  m: number,
  n: number,
  k: number,
  alpha: number,
  a: Matrix,
  b: Matrix,
  beta: 0 | 1,
  c: Float32Array,
  offset: number,
  ld: number,
): void {
  const x = gathered(a, m, k)
  const y = gathered({ ...b, trans: !b.trans }, n, k)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let total = 0
      for (let p = 0; p < k; p++) total += (x[i * k + p] as number) * (y[j * k + p] as number)
      const to = offset + i * ld + j
      c[to] = beta === 0 ? alpha * total : (c[to] as number) + alpha * total
    }
  }
}

/** op(x) as [rows, k], contiguous. */
function gathered(x: Matrix, rows: number, k: number): Float64Array {
  const out = new Float64Array(rows * k)
  const [rowStep, depthStep] = x.trans ? [1, x.ld] : [x.ld, 1]
  const table = x.dtype === "f16" ? f16Table() : undefined
  for (let i = 0, to = 0; i < rows; i++) {
    for (let p = 0; p < k; p++, to++) {
      const raw = x.data[x.offset + i * rowStep + p * depthStep] as number
      out[to] = table ? (table[raw] as number) : x.dtype === "bf16" ? bf16(raw) : raw
    }
  }
  return out
}

const float = new Float32Array(1)
const bits = new Int32Array(float.buffer)

function bf16(pattern: number): number {
  bits[0] = pattern << 16
  return float[0] as number
}
