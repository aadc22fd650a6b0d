/**
 * The matrix product through a BLAS's sgemm: 16-bit operands are widened into scratch memory panel by panel, f32 ones are passed where they lie.
 * Knows the BLAS only as a function.
 */
import { type Gemm, type Matrix, trivial } from "./gemm.ts"
import { isSmall, smallProduct } from "./gemm-small.ts"
import { widen } from "./half.ts"

/** sgemm of the C interface to BLAS without its order argument: row-major throughout. Arrays begin at the operand. */
export type Sgemm = (
  transA: boolean,
  transB: boolean,
  m: number,
  n: number,
  k: number,
  alpha: number,
  a: Float32Array,
  lda: number,
  b: Float32Array,
  ldb: number,
  beta: number,
  c: Float32Array,
  ldc: number,
) => void

/** Elements of a 16-bit operand that are widened at a time: 32 MiB of f32, more than any layer of a model below 1B parameters. */
const widenedElements = 8 * 2 ** 20

export function blasGemm(sgemm: Sgemm, limit: number = widenedElements): Gemm {
  const scratch = { a: new Float32Array(0), b: new Float32Array(0) }

  function f32(x: Matrix, rows: number, columns: number, which: "a" | "b"): { data: Float32Array; ld: number } {
    if (x.dtype === "f32") return { data: from(x.data as Float32Array, x.offset), ld: Math.max(x.ld, 1) }
    if (scratch[which].length < rows * columns) scratch[which] = new Float32Array(rows * columns)
    const target = scratch[which]
    if (x.ld === columns) widen(x.data, x.dtype, x.offset, rows * columns, target)
    else {
      for (let r = 0; r < rows; r++) {
        widen(x.data, x.dtype, x.offset + r * x.ld, columns, target.subarray(r * columns, (r + 1) * columns))
      }
    }
    return { data: target, ld: columns }
  }

  const run: Gemm["run"] = (m, n, k, alpha, a, b, beta, c, offset, ld) => {
    if (trivial(m, n, k, beta, c, offset, ld)) return
    if (isSmall(m, n, k)) {
      smallProduct(m, n, k, alpha, a, b, beta, c, offset, ld)
      return
    }
    // A 16-bit operand too large for the scratch memory is cut along its stored rows: into parts of m or n, or of k, whose products add up.
    if (b.dtype !== "f32" && n * k > limit) {
      const rows = b.trans ? n : k
      const part = partOf(rows, b.trans ? k : n, limit)
      for (let r = 0; r < rows; r += part) {
        const count = Math.min(part, rows - r)
        const y = { ...b, offset: b.offset + r * b.ld }
        if (b.trans) run(m, count, k, alpha, a, y, beta, c, offset + r, ld)
        else
          run(
            m,
            n,
            count,
            alpha,
            { ...a, offset: a.offset + r * (a.trans ? a.ld : 1) },
            y,
            r > 0 ? 1 : beta,
            c,
            offset,
            ld,
          )
      }
      return
    }
    if (a.dtype !== "f32" && m * k > limit) {
      const rows = a.trans ? k : m
      const part = partOf(rows, a.trans ? m : k, limit)
      for (let r = 0; r < rows; r += part) {
        const count = Math.min(part, rows - r)
        const x = { ...a, offset: a.offset + r * a.ld }
        if (!a.trans) run(count, n, k, alpha, x, b, beta, c, offset + r * ld, ld)
        else
          run(
            m,
            n,
            count,
            alpha,
            x,
            { ...b, offset: b.offset + r * (b.trans ? 1 : b.ld) },
            r > 0 ? 1 : beta,
            c,
            offset,
            ld,
          )
      }
      return
    }
    const x = f32(a, a.trans ? k : m, a.trans ? m : k, "a")
    const y = f32(b, b.trans ? n : k, b.trans ? k : n, "b")
    sgemm(a.trans, b.trans, m, n, k, alpha, x.data, x.ld, y.data, y.ld, beta, from(c, offset), Math.max(ld, 1))
  }
  return { name: "blas", run }
}

function partOf(rows: number, columns: number, limit: number): number {
  return Math.max(1, Math.min(rows, Math.floor(limit / columns)))
}

function from(data: Float32Array, offset: number): Float32Array {
  return offset === 0 ? data : data.subarray(offset)
}
