/**
 * The matrix product in WebAssembly SIMD: packs blocks of both operands into the module's memory, multiplies there, copies the block of C out.
 * Operands live outside that memory, which is at most 4 GiB; it only ever holds three blocks, whatever the sizes.
 */
import { type Gemm, trivial } from "./gemm.ts"
import { isSmall, smallProduct } from "./gemm-small.ts"
import { gemmModule, tileColumns, tileRows } from "./gemm-wasm-code.ts"
import { packPanels } from "./pack.ts"

/** Largest block of op(A) [rows, depth] and op(B) [depth, columns] in memory at once. */
const block = { rows: 512, columns: 2048, depth: 2048 }

/** Depth of a pass: a panel of B (8 x 256) stays in the first-level cache, the rows' panels of A (512 x 256) in the second. */
const passDepth = 256

type Multiply = (
  a: number,
  b: number,
  c: number,
  panelsA: number,
  panelsB: number,
  depth: number,
  strideA: number,
  strideB: number,
  ldc: number,
  accumulate: number,
) => void

/** Undefined where WebAssembly or its SIMD is missing or forbidden. */
export async function wasmGemm(): Promise<(Gemm & { readonly relaxed: boolean }) | undefined> {
  try {
    const relaxed = WebAssembly.validate(gemmModule(true))
    const memory = new WebAssembly.Memory({ initial: 1 })
    const { instance } = await WebAssembly.instantiate(gemmModule(relaxed), { e: { m: memory } })
    return { ...createGemm(memory, instance.exports.multiply as Multiply), relaxed }
  } catch {
    return undefined
  }
}

function createGemm(memory: WebAssembly.Memory, multiply: Multiply): Gemm {
  let floats = new Float32Array(memory.buffer)

  function reserve(length: number): void {
    const missing = Math.ceil((4 * length - memory.buffer.byteLength) / 65536)
    if (missing <= 0) return
    memory.grow(missing)
    floats = new Float32Array(memory.buffer)
  }

  return {
    name: "wasm",
    run(m, n, k, alpha, a, b, beta, c, offset, ld) {
      if (trivial(m, n, k, beta, c, offset, ld)) return
      if (isSmall(m, n, k)) {
        smallProduct(m, n, k, alpha, a, b, beta, c, offset, ld)
        return
      }
      const depthMax = Math.min(k, block.depth)
      const rowsMax = roundUp(Math.min(m, block.rows), tileRows)
      const columnsMax = roundUp(Math.min(n, block.columns), tileColumns)
      const atB = rowsMax * depthMax
      const atC = atB + columnsMax * depthMax
      reserve(atC + rowsMax * columnsMax)
      for (let p = 0; p < k; p += block.depth) {
        const depth = Math.min(block.depth, k - p)
        const partA = { ...a, offset: a.offset + p * (a.trans ? a.ld : 1) }
        const partB = { ...b, offset: b.offset + p * (b.trans ? 1 : b.ld) }
        for (let j = 0; j < n; j += block.columns) {
          const columns = Math.min(block.columns, n - j)
          const width = roundUp(columns, tileColumns)
          packPanels(partB, false, j, columns, depth, tileColumns, floats.subarray(atB, atC))
          for (let i = 0; i < m; i += block.rows) {
            const rows = Math.min(block.rows, m - i)
            packPanels(partA, true, i, rows, depth, tileRows, floats.subarray(0, atB))
            for (let q = 0; q < depth; q += passDepth) {
              multiply(
                4 * q * tileRows,
                4 * (atB + q * tileColumns),
                4 * atC,
                Math.ceil(rows / tileRows),
                width / tileColumns,
                Math.min(passDepth, depth - q),
                4 * tileRows * depth,
                4 * tileColumns * depth,
                4 * width,
                q === 0 ? 0 : 1,
              )
            }
            copyOut(floats, atC, width, rows, columns, alpha, p > 0 || beta === 1, c, offset + i * ld + j, ld)
          }
        }
      }
    },
  }
}

function copyOut(
  source: Float32Array,
  from: number,
  width: number,
  rows: number,
  columns: number,
  alpha: number,
  add: boolean,
  c: Float32Array,
  offset: number,
  ld: number,
): void {
  for (let r = 0, at = from, to = offset; r < rows; r++, at += width, to += ld) {
    if (!add && alpha === 1) c.set(source.subarray(at, at + columns), to)
    else if (!add) for (let j = 0; j < columns; j++) c[to + j] = alpha * (source[at + j] as number)
    else for (let j = 0; j < columns; j++) (c[to + j] as number) += alpha * (source[at + j] as number)
  }
}

function roundUp(n: number, to: number): number {
  return Math.ceil(n / to) * to
}
