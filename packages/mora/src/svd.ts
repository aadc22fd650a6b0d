/**
 * Singular values of a matrix, and vectors of the largest ones, by way of its Gram matrix: those below 1e-7 of the largest are noise. A matrix
 * that falls into blocks when rows and columns are sorted, as MoRA's with rotation does, is decomposed block by block. In f64 on the host;
 * knows no tensors.
 */
import { symmetricEigen } from "./eigen.ts"

export interface TruncatedSvd {
  /** Left vectors, each as long as there are rows. */
  readonly U: readonly Float64Array[]
  /** Descending. */
  readonly S: Float64Array
  /** Right vectors, each as long as there are columns. */
  readonly V: readonly Float64Array[]
}

/** The `rank` largest singular values and vectors of a row-major matrix [rows, columns]; at most as many as its smaller side. */
export function truncatedSvd(matrix: ArrayLike<number>, rows: number, columns: number, rank: number): TruncatedSvd {
  const n = Math.min(rank, rows, columns)
  const found = blocksOf(matrix, rows, columns).flatMap((block) => triplets(matrix, columns, block))
  const largest = found.sort((a, b) => b.value - a.value).slice(0, n)
  const nothing = { value: 0, vectors: (): Vectors => [new Float64Array(rows), new Float64Array(columns)] }
  const all = [...largest, ...Array<typeof nothing>(n - largest.length).fill(nothing)]
  const vectors = all.map((one) => one.vectors(rows))
  return {
    U: vectors.map(([u]) => u),
    S: Float64Array.from(all, ({ value }) => value),
    V: vectors.map(([, v]) => v),
  }
}

/** All singular values of a row-major matrix, descending: as many as its smaller side. */
export function singularValues(matrix: ArrayLike<number>, rows: number, columns: number): Float64Array {
  const all = new Float64Array(Math.min(rows, columns))
  const found = blocksOf(matrix, rows, columns).flatMap((block) => {
    const { gram, size } = gramOf(matrix, columns, block)
    return [...symmetricEigen(gram, size, false).values]
  })
  all.set(rooted(found).slice(0, all.length))
  return all
}

/** The singular values of B·A without the product: B [out, rank], A [rank, in], row-major. As many as the rank, descending. */
export function singularValuesOfProduct(B: ArrayLike<number>, A: ArrayLike<number>, rank: number): Float64Array {
  const [out, width] = [B.length / rank, A.length / rank]
  const all = { rows: range(out), columns: range(rank) }
  const left = gramOf(B, rank, all, true).gram
  const right = gramOf(A, width, { rows: range(rank), columns: range(width) }, false).gram
  // BᵀB = UᵀDU; the values are the roots of those of √D·U·(A·Aᵀ)·Uᵀ·√D.
  const { values, vectors } = symmetricEigen(left, rank, true)
  const U = vectors as Float64Array
  const half = new Float64Array(rank * rank)
  for (let i = 0; i < rank; i++)
    for (let k = 0; k < rank; k++) {
      const u = U[i * rank + k] as number
      for (let j = 0; j < rank; j++) (half[i * rank + j] as number) += u * (right[k * rank + j] as number)
    }
  const middle = new Float64Array(rank * rank)
  for (let i = 0; i < rank; i++)
    for (let j = 0; j < rank; j++) {
      let sum = 0
      for (let k = 0; k < rank; k++) sum += (half[i * rank + k] as number) * (U[j * rank + k] as number)
      middle[i * rank + j] = sum * Math.sqrt(Math.max(0, values[i] as number) * Math.max(0, values[j] as number))
    }
  return rooted([...symmetricEigen(middle, rank, false).values])
}

function rooted(values: readonly number[]): Float64Array {
  return Float64Array.from(values, (x) => Math.sqrt(Math.max(0, x)))
    .sort()
    .reverse()
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

/** Rows and columns that are zero outside of each other. */
interface Block {
  readonly rows: readonly number[]
  readonly columns: readonly number[]
}

/** Which rows and columns hang together; those without a value belong to none. */
function blocksOf(matrix: ArrayLike<number>, rows: number, columns: number): Block[] {
  const parents = Int32Array.from({ length: rows + columns }, (_, i) => i)
  const rootOf = (i: number): number => {
    let at = i
    while (parents[at] !== at) {
      parents[at] = parents[parents[at] as number] as number
      at = parents[at] as number
    }
    return at
  }
  const used = new Uint8Array(rows + columns)
  for (let r = 0; r < rows; r++) {
    let root = rootOf(r)
    for (let c = 0, at = r * columns; c < columns; c++, at++) {
      if (matrix[at] === 0) continue
      used[r] = used[rows + c] = 1
      if (parents[rows + c] === root) continue
      root = parents[rootOf(rows + c)] = rootOf(root)
    }
  }
  const blocks = new Map<number, { rows: number[]; columns: number[] }>()
  for (let i = 0; i < rows + columns; i++) {
    if (used[i] === 0) continue
    const root = rootOf(i)
    const block = blocks.get(root) ?? { rows: [], columns: [] }
    blocks.set(root, block)
    if (i < rows) block.rows.push(i)
    else block.columns.push(i - rows)
  }
  return [...blocks.values()]
}

/** The Gram matrix of a block's columns, or of its rows: of whichever are fewer unless told. */
function gramOf(
  matrix: ArrayLike<number>,
  width: number,
  { rows, columns }: Block,
  ofColumns: boolean = columns.length <= rows.length,
): { gram: Float64Array; size: number; ofColumns: boolean } {
  const [few, many] = ofColumns ? [columns, rows] : [rows, columns]
  const size = few.length
  const gram = new Float64Array(size * size)
  const line = new Float64Array(size)
  for (const m of many) {
    for (let i = 0; i < size; i++)
      line[i] = matrix[ofColumns ? m * width + (few[i] as number) : (few[i] as number) * width + m] as number
    for (let i = 0; i < size; i++) {
      const x = line[i] as number
      if (x === 0) continue
      for (let j = i, at = i * size + i; j < size; j++, at++) (gram[at] as number) += x * (line[j] as number)
    }
  }
  for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) gram[i * size + j] = gram[j * size + i] as number
  return { gram, size, ofColumns }
}

type Vectors = readonly [u: Float64Array, v: Float64Array]

/** A block's singular values, each with its vectors for when it is among the largest. */
function triplets(
  matrix: ArrayLike<number>,
  width: number,
  block: Block,
): { value: number; vectors(rows: number): Vectors }[] {
  const { gram, size, ofColumns } = gramOf(matrix, width, block)
  const { values, vectors } = symmetricEigen(gram, size, true)
  const [few, many] = ofColumns ? [block.columns, block.rows] : [block.rows, block.columns]
  return Array.from(values, (square, i) => {
    const value = Math.sqrt(Math.max(0, square))
    return {
      value,
      vectors(rows) {
        const lengths = [rows, width]
        const near = new Float64Array(lengths[ofColumns ? 1 : 0] as number)
        const far = new Float64Array(lengths[ofColumns ? 0 : 1] as number)
        for (const [k, at] of few.entries()) near[at] = (vectors as Float64Array)[i * size + k] as number
        for (const m of many) {
          let sum = 0
          for (const k of few)
            sum += (matrix[ofColumns ? m * width + k : k * width + m] as number) * (near[k] as number)
          far[m] = value > 0 ? sum / value : 0
        }
        return ofColumns ? [far, near] : [near, far]
      },
    }
  })
}
