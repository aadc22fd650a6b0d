/**
 * The largest singular values of a matrix with their vectors, by subspace iteration with a random start (Halko, Martinsson & Tropp 2011,
 * "Finding structure with randomness", algorithm 4.4) and Jacobi rotations on what is left. In f64 on the host; knows no tensors.
 */
import { keyOf, normals } from "@peftjs/core"

export interface TruncatedSvd {
  /** Left vectors, each as long as there are rows. */
  readonly U: readonly Float64Array[]
  /** Descending. */
  readonly S: Float64Array
  /** Right vectors, each as long as there are columns. */
  readonly V: readonly Float64Array[]
}

/** Vectors beyond those asked for: what is just below the cut is told apart by them. */
const spare = 10
/** Iterations end when the share of the matrix that is caught grows by less than this, or after so many. */
const growth = 1e-7
const mostTurns = 40

/** The `rank` largest singular values and vectors of a row-major matrix [rows, columns]; at most as many as its smaller side. */
export function truncatedSvd(matrix: ArrayLike<number>, rows: number, columns: number, rank: number): TruncatedSvd {
  const n = Math.min(rank, rows, columns)
  const width = Math.min(n + spare, rows, columns)
  const random = normals(keyOf(0, "svd"), width * columns, 1)
  let Z: Float64Array[] = Array.from({ length: width }, (_, i) =>
    Float64Array.from(random.subarray(i * columns, (i + 1) * columns)),
  )
  let Q: Float64Array[] = []
  let caught = 0
  for (let turn = 0; turn < mostTurns; turn++) {
    Q = orthonormal(times(matrix, rows, columns, orthonormal(Z)))
    Z = timesTransposed(matrix, rows, columns, Q)
    const now = Z.reduce((sum, z) => sum + dot(z, z), 0)
    if (!(now > caught * (1 + growth))) break
    caught = now
  }
  // The matrix is nearly Q·Zᵀ; turned so that the vectors of Z stand at right angles, it is U·S·Vᵀ.
  diagonalise(Z, Q)
  const order = Z.map((z, i) => [Math.sqrt(dot(z, z)), i] as const)
    .sort(([a], [b]) => b - a)
    .slice(0, n)
  return {
    U: order.map(([, i]) => Q[i] as Float64Array),
    S: Float64Array.from(order, ([s]) => s),
    V: order.map(([s, i]) => (Z[i] as Float64Array).map((z) => (s > 0 ? z / s : 0))),
  }
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number)
  return sum
}

/** A·v for every v. */
function times(A: ArrayLike<number>, rows: number, columns: number, vectors: readonly Float64Array[]): Float64Array[] {
  return vectors.map((v) => {
    const out = new Float64Array(rows)
    for (let r = 0; r < rows; r++) {
      let sum = 0
      for (let c = 0, at = r * columns; c < columns; c++, at++) sum += (A[at] as number) * (v[c] as number)
      out[r] = sum
    }
    return out
  })
}

/** Aᵀ·v for every v. */
function timesTransposed(
  A: ArrayLike<number>,
  rows: number,
  columns: number,
  vectors: readonly Float64Array[],
): Float64Array[] {
  return vectors.map((v) => {
    const out = new Float64Array(columns)
    for (let r = 0; r < rows; r++) {
      const x = v[r] as number
      for (let c = 0, at = r * columns; c < columns; c++, at++) (out[c] as number) += (A[at] as number) * x
    }
    return out
  })
}

/** Gram and Schmidt's vectors, each made orthogonal twice; what depends on those before it becomes zero. */
function orthonormal(vectors: readonly Float64Array[]): Float64Array[] {
  const done: Float64Array[] = []
  for (const given of vectors) {
    const v = given.slice()
    const before = Math.sqrt(dot(v, v))
    for (let again = 0; again < 2; again++) {
      for (const q of done) {
        const share = dot(q, v)
        for (let i = 0; i < v.length; i++) (v[i] as number) -= share * (q[i] as number)
      }
    }
    const norm = Math.sqrt(dot(v, v))
    const scale = norm > 1e-12 * before ? 1 / norm : 0
    done.push(v.map((x) => x * scale))
  }
  return done
}

/** Turns pairs of Z, and of Q alike, until all of Z are orthogonal (one-sided Jacobi, Hestenes 1958). */
function diagonalise(Z: readonly Float64Array[], Q: readonly Float64Array[]): void {
  for (let sweep = 0, turned = true; turned && sweep < 30; sweep++) {
    turned = false
    for (let i = 0; i < Z.length; i++)
      for (let j = i + 1; j < Z.length; j++) {
        const [a, b] = [Z[i] as Float64Array, Z[j] as Float64Array]
        const [aa, bb, ab] = [dot(a, a), dot(b, b), dot(a, b)]
        if (Math.abs(ab) <= 1e-10 * Math.sqrt(aa * bb)) continue
        turned = true
        const tau = (bb - aa) / (2 * ab)
        const tan = (tau < 0 ? -1 : 1) / (Math.abs(tau) + Math.hypot(1, tau))
        const cos = 1 / Math.hypot(1, tan)
        turn(a, b, cos, cos * tan)
        turn(Q[i] as Float64Array, Q[j] as Float64Array, cos, cos * tan)
      }
  }
}

function turn(a: Float64Array, b: Float64Array, cos: number, sin: number): void {
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i] as number, b[i] as number]
    a[i] = cos * x - sin * y
    b[i] = sin * x + cos * y
  }
}
