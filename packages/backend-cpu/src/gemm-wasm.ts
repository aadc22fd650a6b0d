/**
 * The matrix product in WebAssembly SIMD, on a heap: blocks of both operands are packed into scratch and multiplied from there. f32 operands
 * in the heap are packed where they lie, others are brought there first; C is written where it lies if it can be.
 */
import type { CpuBuffer } from "./buffers.ts"
import { type Gemm, type Matrix, trivial } from "./gemm.ts"
import { isSmall, smallProduct } from "./gemm-small.ts"
import { multiplyFunction, tileColumns, tileRows } from "./gemm-wasm-code.ts"
import { createHeap, type Heap, placeOf } from "./heap.ts"
import { packPanels } from "./pack.ts"
import { packFunctions } from "./pack-code.ts"
import { bring, heapView } from "./staging.ts"
import { relaxedSimd } from "./wasm-module.ts"

/** Largest block of op(A) [rows, depth] and op(B) [depth, columns] in scratch at once. */
const block = { rows: 512, columns: 2048, depth: 1024 }

/** Depth of a pass: a panel of B (8 x 256) stays in the first-level cache, the rows' panels of A (512 x 256) in the second. */
const passDepth = 256

type Run = (...args: number[]) => number

/** Undefined where WebAssembly or its SIMD is missing or forbidden. */
export function wasmGemm(): (Gemm & { readonly relaxed: boolean }) | undefined {
  // Scratch alone, of which nothing is touched where `on` is used.
  const heap = createHeap(0)
  if (heap === undefined) return undefined
  const relaxed = relaxedSimd()
  let alone: Gemm["run"] | undefined
  return {
    name: "wasm",
    relaxed,
    run(...operands) {
      alone ??= productOn(heap)
      alone(...operands)
    },
    on: (own) => ({ name: "wasm", run: productOn(own) }),
  }
}

function productOn(heap: Heap): Gemm["run"] {
  const kernels = heap.load([multiplyFunction(), ...packFunctions(tileRows), ...packFunctions(tileColumns)])
  const multiply = kernels.multiply as Run

  /** Packs lanes (rows of op(A) or columns of op(B)) of depths p…p+depth-1, times a factor. */
  function pack(
    x: Matrix,
    lanesAreRows: boolean,
    first: number,
    count: number,
    p: number,
    depth: number,
    factor: number,
    to: number,
  ): void {
    const width = lanesAreRows ? tileRows : tileColumns
    // Whether a stored row is a lane.
    const along = lanesAreRows !== x.trans
    const start = x.offset + (along ? first * x.ld + p : p * x.ld + first)
    const part = (data: Float32Array, offset: number, ld: number): void => {
      const panels = Math.floor(count / width)
      const source = data.byteOffset + 4 * offset
      ;(kernels[`${along ? "along" : "across"}${width}`] as Run)(source, to, panels, depth, 4 * ld, factor)
      if (panels * width === count) return
      const rest = heapView(heap, "f32", to + 4 * panels * width * depth, width * depth) as Float32Array
      const matrix = { data, dtype: "f32", offset, ld, trans: x.trans } as const
      packPanels(matrix, lanesAreRows, panels * width, count - panels * width, depth, width, rest)
      if (factor !== 1) for (let i = 0; i < rest.length; i++) (rest[i] as number) *= factor
    }
    if (x.dtype === "f32" && placeOf(heap, x.data) !== undefined) {
      part(x.data as Float32Array, start, x.ld)
      return
    }
    const [rows, columns] = along ? [count, depth] : [depth, count]
    heap.scratch(4 * rows * columns, (at) => {
      const outside: CpuBuffer = { dtype: x.dtype, length: x.data.length, data: x.data, block: undefined }
      if (x.ld === columns) bring(heap, outside, start, rows * columns, at)
      else for (let r = 0; r < rows; r++) bring(heap, outside, start + r * x.ld, columns, at + 4 * r * columns)
      part(heapView(heap, "f32", at, rows * columns) as Float32Array, 0, columns)
    })
  }

  return (m, n, k, alpha, a, b, beta, c, offset, ld) => {
    if (trivial(m, n, k, beta, c, offset, ld)) return
    if (isSmall(m, n, k)) {
      smallProduct(m, n, k, alpha, a, b, beta, c, offset, ld)
      return
    }
    const depthMax = Math.min(k, block.depth)
    const rowsMax = roundUp(Math.min(m, block.rows), tileRows)
    const columnsMax = roundUp(Math.min(n, block.columns), tileColumns)
    const place = m % tileRows === 0 && n % tileColumns === 0 ? placeOf(heap, c) : undefined
    const sizes = [rowsMax * depthMax, columnsMax * depthMax, place === undefined ? rowsMax * columnsMax : 0] as const
    heap.scratch(4 * (sizes[0] + sizes[1] + sizes[2]), (atA) => {
      const atB = atA + 4 * sizes[0]
      const atC = atB + 4 * sizes[1]
      for (let p = 0; p < k; p += block.depth) {
        const depth = Math.min(block.depth, k - p)
        const add = p > 0 || beta === 1
        for (let j = 0; j < n; j += block.columns) {
          const columns = Math.min(block.columns, n - j)
          const width = roundUp(columns, tileColumns)
          pack(b, false, j, columns, p, depth, 1, atB)
          for (let i = 0; i < m; i += block.rows) {
            const rows = Math.min(block.rows, m - i)
            pack(a, true, i, rows, p, depth, alpha, atA)
            const to = offset + i * ld + j
            for (let q = 0; q < depth; q += passDepth) {
              multiply(
                atA + 4 * q * tileRows,
                atB + 4 * q * tileColumns,
                place === undefined ? atC : place + 4 * to,
                Math.ceil(rows / tileRows),
                width / tileColumns,
                Math.min(passDepth, depth - q),
                4 * tileRows * depth,
                4 * tileColumns * depth,
                4 * (place === undefined ? width : ld),
                q > 0 || (place !== undefined && add) ? 1 : 0,
              )
            }
            if (place !== undefined) continue
            const product = heapView(heap, "f32", atC, rows * width) as Float32Array
            copyOut(product, width, rows, columns, add, c, to, ld)
          }
        }
      }
    })
  }
}

function copyOut(
  source: Float32Array,
  width: number,
  rows: number,
  columns: number,
  add: boolean,
  c: Float32Array,
  offset: number,
  ld: number,
): void {
  for (let r = 0, at = 0, to = offset; r < rows; r++, at += width, to += ld) {
    if (!add) c.set(source.subarray(at, at + columns), to)
    else for (let j = 0; j < columns; j++) (c[to + j] as number) += source[at + j] as number
  }
}

function roundUp(n: number, to: number): number {
  return Math.ceil(n / to) * to
}
