/**
 * The one interface behind which all three matrix products stand: TypeScript loops, WebAssembly, a BLAS.
 * Row-major with leading dimensions, so that a head of [batch, t, heads, dim] is an operand where it lies. Knows no buffers and no batches.
 */
import type { FloatType } from "./half.ts"
import type { Heap } from "./heap.ts"

/** op(data) from `offset` on; `ld` elements lie between stored rows. With `trans` the stored matrix is the transpose of the operand. */
export interface Matrix {
  readonly data: Float32Array | Uint16Array
  readonly dtype: FloatType
  readonly offset: number
  readonly ld: number
  readonly trans: boolean
}

export interface Gemm {
  readonly name: "reference" | "wasm" | "blas"
  /**
   * C = alpha · A · B + beta · C for A [m, k], B [k, n], C [m, n].
   * C must not overlap A or B. With beta 0, C is only written, so it may hold anything. m, n or k may be 0.
   */
  run(
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
  ): void
  /** The same on a heap, which most operands then lie in. */
  on?(heap: Heap): Gemm
}

/** What an empty inner dimension leaves of C: true when that was all there is to do. */
export function trivial(
  m: number,
  n: number,
  k: number,
  beta: 0 | 1,
  c: Float32Array,
  offset: number,
  ld: number,
): boolean {
  if (m === 0 || n === 0) return true
  if (k > 0) return false
  if (beta === 0) for (let i = 0; i < m; i++) c.fill(0, offset + i * ld, offset + i * ld + n)
  return true
}
