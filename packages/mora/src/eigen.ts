/**
 * Eigenvalues of a symmetric matrix, and its eigenvectors where they are asked for: Householder's tridiagonal form and the implicit QL
 * method (EISPACK's tred2 and tql2, as in JAMA, public domain), with the matrix turned so that every inner loop runs along a row.
 */

export interface Eigen {
  /** In no order. */
  readonly values: Float64Array
  /** Row i is the vector of value i; [n, n]. */
  readonly vectors: Float64Array | undefined
}

/** Of a symmetric row-major matrix [n, n], which is overwritten. */
export function symmetricEigen(matrix: Float64Array, n: number, withVectors: boolean): Eigen {
  if (n === 0) return { values: new Float64Array(0), vectors: withVectors ? matrix : undefined }
  const [d, e] = [new Float64Array(n), new Float64Array(n)]
  reduce(matrix, n, d, e)
  if (withVectors) accumulate(matrix, n, d)
  else for (let i = 0; i < n; i++) d[i] = matrix[i * n + i] as number
  diagonalise(withVectors ? matrix : undefined, n, d, e)
  return { values: d, vectors: withVectors ? matrix : undefined }
}

/** To tridiagonal form: its diagonal in T's, what is beside it in `e`; the reflections stay in T and `d`. */
function reduce(T: Float64Array, n: number, d: Float64Array, e: Float64Array): void {
  for (let j = 0; j < n; j++) d[j] = T[j * n + n - 1] as number
  for (let i = n - 1; i > 0; i--) {
    let [scale, h] = [0, 0]
    for (let k = 0; k < i; k++) scale += Math.abs(d[k] as number)
    if (scale === 0) {
      e[i] = d[i - 1] as number
      for (let j = 0; j < i; j++) {
        d[j] = T[j * n + i - 1] as number
        T[j * n + i] = 0
        T[i * n + j] = 0
      }
    } else {
      for (let k = 0; k < i; k++) {
        const scaled = (d[k] as number) / scale
        d[k] = scaled
        h += scaled * scaled
      }
      const last = d[i - 1] as number
      const g = last > 0 ? -Math.sqrt(h) : Math.sqrt(h)
      e[i] = scale * g
      h -= last * g
      d[i - 1] = last - g
      reflect(T, n, i, h, d, e)
    }
    d[i] = h
  }
}

/** The similarity by the reflection in `d`, whose squared length is 2h. */
function reflect(T: Float64Array, n: number, i: number, h: number, d: Float64Array, e: Float64Array): void {
  e.fill(0, 0, i)
  for (let j = 0; j < i; j++) {
    const f = d[j] as number
    T[i * n + j] = f
    const row = j * n
    let g = (e[j] as number) + (T[row + j] as number) * f
    for (let k = j + 1; k < i; k++) {
      const t = T[row + k] as number
      g += t * (d[k] as number)
      ;(e[k] as number) += t * f
    }
    e[j] = g
  }
  let f = 0
  for (let j = 0; j < i; j++) {
    ;(e[j] as number) /= h
    f += (e[j] as number) * (d[j] as number)
  }
  const half = f / (h + h)
  for (let j = 0; j < i; j++) (e[j] as number) -= half * (d[j] as number)
  for (let j = 0; j < i; j++) {
    const [a, b] = [d[j] as number, e[j] as number]
    const row = j * n
    for (let k = j; k < i; k++) (T[row + k] as number) -= a * (e[k] as number) + b * (d[k] as number)
    d[j] = T[row + i - 1] as number
    T[row + i] = 0
  }
}

/** The product of the reflections in T, the diagonal in `d`. */
function accumulate(T: Float64Array, n: number, d: Float64Array): void {
  const end = n - 1
  for (let i = 0; i < end; i++) {
    T[i * n + end] = T[i * n + i] as number
    T[i * n + i] = 1
    const h = d[i + 1] as number
    const next = (i + 1) * n
    if (h !== 0) {
      for (let k = 0; k <= i; k++) d[k] = (T[next + k] as number) / h
      for (let j = 0; j <= i; j++) {
        const row = j * n
        let g = 0
        for (let k = 0; k <= i; k++) g += (T[next + k] as number) * (T[row + k] as number)
        for (let k = 0; k <= i; k++) (T[row + k] as number) -= g * (d[k] as number)
      }
    }
    T.fill(0, next, next + i + 1)
  }
  for (let j = 0; j < n; j++) {
    d[j] = T[j * n + end] as number
    T[j * n + end] = 0
  }
  T[end * n + end] = 1
}

/** QL with implicit shifts; rotates the rows of T along. */
function diagonalise(T: Float64Array | undefined, n: number, d: Float64Array, e: Float64Array): void {
  e.copyWithin(0, 1)
  e[n - 1] = 0
  let [shift, size] = [0, 0]
  for (let l = 0; l < n; l++) {
    size = Math.max(size, Math.abs(d[l] as number) + Math.abs(e[l] as number))
    const small = Number.EPSILON * size
    let m = l
    while (Math.abs(e[m] as number) > small) m++
    while (m > l && Math.abs(e[l] as number) > small) {
      const [first, beside] = [d[l] as number, e[l] as number]
      const q = ((d[l + 1] as number) - first) / (2 * beside)
      const r = q < 0 ? q - Math.hypot(q, 1) : q + Math.hypot(q, 1)
      d[l] = beside / r
      d[l + 1] = beside * r
      const second = d[l + 1] as number
      const moved = first - (d[l] as number)
      for (let i = l + 2; i < n; i++) (d[i] as number) -= moved
      shift += moved
      let [p, c, c2, c3, s, s2] = [d[m] as number, 1, 1, 1, 0, 0]
      const after = e[l + 1] as number
      for (let i = m - 1; i >= l; i--) {
        c3 = c2
        c2 = c
        s2 = s
        const [g, h] = [c * (e[i] as number), c * p]
        const length = Math.hypot(p, e[i] as number)
        e[i + 1] = s * length
        s = (e[i] as number) / length
        c = p / length
        p = c * (d[i] as number) - s * g
        d[i + 1] = h + s * (c * g + s * (d[i] as number))
        if (T) rotate(T, i * n, n, c, s)
      }
      p = (-s * s2 * c3 * after * (e[l] as number)) / second
      e[l] = s * p
      d[l] = c * p
    }
    ;(d[l] as number) += shift
    e[l] = 0
  }
}

/** Turns the row at `row` and the one below it. */
function rotate(T: Float64Array, row: number, n: number, c: number, s: number): void {
  for (let k = row; k < row + n; k++) {
    const [a, b] = [T[k] as number, T[k + n] as number]
    T[k + n] = s * a + c * b
    T[k] = c * a - s * b
  }
}
