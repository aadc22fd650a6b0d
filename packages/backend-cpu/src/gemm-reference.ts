/** The matrix product in plain TypeScript: the executable specification of the other two, and what runs where WebAssembly is forbidden. */
import { type Gemm, trivial } from "./gemm.ts"
import { packPanels } from "./pack.ts"

/** Rows and columns of the block of C that stays in registers. */
const tile = 4

/** Columns of B packed at a time. */
const columnBlock = 256

export function referenceGemm(): Gemm {
  return {
    name: "reference",
    run(m, n, k, alpha, a, b, beta, c, offset, ld) {
      if (trivial(m, n, k, beta, c, offset, ld)) return
      const panelA = new Float32Array(tile * k)
      const panelsB = new Float32Array(Math.ceil(Math.min(n, columnBlock) / tile) * tile * k)
      const sums = new Float64Array(tile * tile)
      for (let j0 = 0; j0 < n; j0 += columnBlock) {
        const columns = Math.min(columnBlock, n - j0)
        packPanels(b, false, j0, columns, k, tile, panelsB)
        for (let i = 0; i < m; i += tile) {
          const rows = Math.min(tile, m - i)
          packPanels(a, true, i, rows, k, tile, panelA)
          for (let j = 0; j < columns; j += tile) {
            multiply(panelA, panelsB, j * k, k, sums)
            const width = Math.min(tile, columns - j)
            for (let r = 0; r < rows; r++) {
              const to = offset + (i + r) * ld + j0 + j
              for (let q = 0; q < width; q++) {
                const product = alpha * (sums[r * tile + q] as number)
                c[to + q] = beta === 0 ? product : (c[to + q] as number) + product
              }
            }
          }
        }
      }
    },
  }
}

/** sums = the 4x4 product of two panels. */
function multiply(a: Float32Array, b: Float32Array, from: number, k: number, sums: Float64Array): void {
  let c00 = 0
  let c01 = 0
  let c02 = 0
  let c03 = 0
  let c10 = 0
  let c11 = 0
  let c12 = 0
  let c13 = 0
  let c20 = 0
  let c21 = 0
  let c22 = 0
  let c23 = 0
  let c30 = 0
  let c31 = 0
  let c32 = 0
  let c33 = 0
  for (let p = 0, q = from; p < 4 * k; p += 4, q += 4) {
    const b0 = b[q] as number
    const b1 = b[q + 1] as number
    const b2 = b[q + 2] as number
    const b3 = b[q + 3] as number
    const a0 = a[p] as number
    c00 += a0 * b0
    c01 += a0 * b1
    c02 += a0 * b2
    c03 += a0 * b3
    const a1 = a[p + 1] as number
    c10 += a1 * b0
    c11 += a1 * b1
    c12 += a1 * b2
    c13 += a1 * b3
    const a2 = a[p + 2] as number
    c20 += a2 * b0
    c21 += a2 * b1
    c22 += a2 * b2
    c23 += a2 * b3
    const a3 = a[p + 3] as number
    c30 += a3 * b0
    c31 += a3 * b1
    c32 += a3 * b2
    c33 += a3 * b3
  }
  sums.set([c00, c01, c02, c03, c10, c11, c12, c13, c20, c21, c22, c23, c30, c31, c32, c33])
}
