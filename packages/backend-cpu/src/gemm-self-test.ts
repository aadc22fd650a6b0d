/** Products with a known result: what a Gemm from outside must get right before it is used. */
import type { Gemm } from "./gemm.ts"

const shapes = [
  [17, 13, 29],
  [70, 65, 129],
] as const

/** Undefined when every product is right, else what was wrong. All transpositions, leading dimensions with gaps, alpha and beta. */
export function selfTest(gemm: Gemm): string | undefined {
  for (const [m, n, k] of shapes) {
    for (const transA of [false, true]) {
      for (const transB of [false, true]) {
        for (const beta of [0, 1] as const) {
          const error = largestError(gemm, m, n, k, transA, transB, beta)
          if (!(error < 1e-4)) {
            return `[${m}, ${k}] x [${k}, ${n}], transposed ${transA} and ${transB}, beta ${beta}, is off by ${error}`
          }
        }
      }
    }
  }
  return undefined
}

function largestError(
  gemm: Gemm,
  m: number,
  n: number,
  k: number,
  transA: boolean,
  transB: boolean,
  beta: 0 | 1,
): number {
  const gap = 3
  const alpha = 0.5
  const lda = (transA ? m : k) + gap
  const ldb = (transB ? k : n) + gap
  const ldc = n + gap
  const a = pattern(gap + (transA ? k : m) * lda)
  const b = pattern(gap + (transB ? n : k) * ldb)
  const c = pattern(gap + m * ldc)
  const before = c.slice()
  const side = { dtype: "f32", offset: gap } as const
  gemm.run(
    m,
    n,
    k,
    alpha,
    { ...side, data: a, ld: lda, trans: transA },
    { ...side, data: b, ld: ldb, trans: transB },
    beta,
    c,
    gap,
    ldc,
  )
  let worst = 0
  for (let at = 0; at < c.length; at++) {
    const i = Math.floor((at - gap) / ldc)
    const j = (at - gap) % ldc
    let expected = before[at] as number
    if (at >= gap && j < n) {
      expected *= beta
      for (let p = 0; p < k; p++) {
        const x = a[gap + (transA ? p * lda + i : i * lda + p)] as number
        const y = b[gap + (transB ? j * ldb + p : p * ldb + j)] as number
        expected += alpha * x * y
      }
    }
    worst = Math.max(worst, Math.abs((c[at] as number) - expected))
  }
  return worst
}

/** Numbers in [-1, 1] without a visible order. */
function pattern(n: number): Float32Array {
  return Float32Array.from({ length: n }, (_, i) => (((i + 1) * 7919) % 211) / 105.5 - 1)
}
