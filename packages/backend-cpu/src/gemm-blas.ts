/**
 * The matrix product through a BLAS's sgemm: 16-bit operands are widened into scratch memory part by part, f32 ones are passed where they lie.
 * Knows the BLAS only as a function.
 */
import type { CpuBuffer } from "./buffers.ts"
import { type Gemm, type Matrix, trivial } from "./gemm.ts"
import { isSmall, smallProduct } from "./gemm-small.ts"
import { widen } from "./half.ts"
import type { Heap } from "./heap.ts"
import { bring, heapView } from "./staging.ts"

/** sgemm of the C interface to BLAS without its order argument: row-major throughout. Arrays with the position of their first element. */
export type Sgemm = (
  transA: boolean,
  transB: boolean,
  m: number,
  n: number,
  k: number,
  alpha: number,
  a: Float32Array,
  offsetA: number,
  lda: number,
  b: Float32Array,
  offsetB: number,
  ldb: number,
  beta: number,
  c: Float32Array,
  offsetC: number,
  ldc: number,
) => void

/** Elements of a 16-bit operand that are widened at a time: 8 MiB of f32, a layer of a model of 0.2B parameters, and products of good size. */
const widenedElements = 2 ** 21

/** f32 memory for the running product, and the widening of 16-bit numbers into it. */
interface Scratch {
  lend(elements: number, body: (target: Float32Array) => void): void
  widen(source: Matrix, start: number, n: number, target: Float32Array): void
}

export function blasGemm(sgemm: Sgemm, limit: number = widenedElements): Gemm {
  return { ...productWith(sgemm, limit, plainScratch()), on: (heap) => productWith(sgemm, limit, heapScratch(heap)) }
}

function plainScratch(): Scratch {
  return {
    lend: (elements, body) => body(new Float32Array(elements)),
    widen: ({ data, dtype }, start, n, target) => widen(data, dtype, start, n, target),
  }
}

function heapScratch(heap: Heap): Scratch {
  return {
    lend: (elements, body) =>
      heap.scratch(4 * elements, (at) => body(heapView(heap, "f32", at, elements) as Float32Array)),
    widen({ data, dtype }, start, n, target) {
      const outside: CpuBuffer = { dtype, length: data.length, data, block: undefined }
      bring(heap, outside, start, n, target.byteOffset)
    },
  }
}

function productWith(sgemm: Sgemm, limit: number, scratch: Scratch): Gemm {
  /** Calls `body` with [rows, columns], as it is stored, in f32. */
  function asF32(
    x: Matrix,
    rows: number,
    columns: number,
    body: (data: Float32Array, offset: number, ld: number) => void,
  ): void {
    if (x.dtype === "f32") {
      body(x.data as Float32Array, x.offset, Math.max(x.ld, 1))
      return
    }
    scratch.lend(rows * columns, (target) => {
      if (x.ld === columns) scratch.widen(x, x.offset, rows * columns, target)
      else {
        for (let r = 0; r < rows; r++) {
          scratch.widen(x, x.offset + r * x.ld, columns, target.subarray(r * columns, (r + 1) * columns))
        }
      }
      body(target, 0, columns)
    })
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
      for (const [r, count] of partsOf(rows, b.trans ? k : n, limit)) {
        const y = { ...b, offset: b.offset + r * b.ld }
        const x = { ...a, offset: a.offset + r * (a.trans ? a.ld : 1) }
        if (b.trans) run(m, count, k, alpha, a, y, beta, c, offset + r, ld)
        else run(m, n, count, alpha, x, y, r > 0 ? 1 : beta, c, offset, ld)
      }
      return
    }
    if (a.dtype !== "f32" && m * k > limit) {
      const rows = a.trans ? k : m
      for (const [r, count] of partsOf(rows, a.trans ? m : k, limit)) {
        const x = { ...a, offset: a.offset + r * a.ld }
        const y = { ...b, offset: b.offset + r * (b.trans ? 1 : b.ld) }
        if (a.trans) run(m, n, count, alpha, x, y, r > 0 ? 1 : beta, c, offset, ld)
        else run(count, n, k, alpha, x, b, beta, c, offset + r * ld, ld)
      }
      return
    }
    asF32(a, a.trans ? k : m, a.trans ? m : k, (x, offsetX, ldX) =>
      asF32(b, b.trans ? n : k, b.trans ? k : n, (y, offsetY, ldY) =>
        sgemm(a.trans, b.trans, m, n, k, alpha, x, offsetX, ldX, y, offsetY, ldY, beta, c, offset, Math.max(ld, 1)),
      ),
    )
  }
  return { name: "blas", run }
}

/** Stored rows in parts of at most `limit` elements: first row and number of rows. */
function* partsOf(rows: number, columns: number, limit: number): Generator<readonly [number, number]> {
  const part = Math.max(1, Math.min(rows, Math.floor(limit / columns)))
  for (let r = 0; r < rows; r += part) yield [r, Math.min(part, rows - r)]
}
