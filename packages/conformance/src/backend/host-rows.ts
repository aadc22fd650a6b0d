/** Operations on the rows of a matrix in f64, forward and backward: the oracle of the fused kernels. Uses nothing of core. */

type Numbers = ArrayLike<number>

/** f(row, its elements) joined over the rows of [rows, n]. */
function byRow(x: Numbers, n: number, rows: number, f: (elements: number[], row: number) => Numbers): Float64Array {
  const parts = Array.from({ length: rows }, (_, r) => f(rowOf(x, n, r), r))
  const out = new Float64Array(parts.reduce((size, part) => size + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

function rowOf(x: Numbers, n: number, row: number): number[] {
  return Array.from({ length: n }, (_, i) => x[row * n + i] as number)
}

const total = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0)
const meanOf = (xs: readonly number[]): number => total(xs) / xs.length

export interface Rows {
  readonly rows: number
  readonly n: number
}
export type NormRows = Rows & { readonly eps: number }

export function logSumExpRows(x: Numbers, { rows, n }: Rows): Float64Array {
  return byRow(x, n, rows, (xs) => {
    const top = xs.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
    return [top === Number.NEGATIVE_INFINITY ? top : top + Math.log(total(xs.map((v) => Math.exp(v - top))))]
  })
}

export function softmaxRows(x: Numbers, { rows, n }: Rows): Float64Array {
  return byRow(x, n, rows, (xs) => {
    const top = xs.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
    const e = xs.map((v) => Math.exp(v - top))
    const sum = total(e)
    return e.map((v) => v / sum)
  })
}

export function rmsNormRows(x: Numbers, weight: Numbers, { rows, n, eps }: NormRows): Float64Array {
  return byRow(x, n, rows, (xs) => {
    const r = inverseRms(xs, eps)
    return xs.map((v, i) => v * r * (weight[i] as number))
  })
}

/** dx of rmsNorm. */
export function rmsNormBackwardRows(x: Numbers, weight: Numbers, dy: Numbers, dims: NormRows): Float64Array {
  const { rows, n, eps } = dims
  return byRow(x, n, rows, (xs, row) => {
    const r = inverseRms(xs, eps)
    const g = rowOf(dy, n, row).map((v, i) => v * (weight[i] as number))
    const along = meanOf(xs.map((v, i) => v * (g[i] as number)))
    return xs.map((v, i) => r * (g[i] as number) - v * r ** 3 * along)
  })
}

export function layerNormRows(x: Numbers, weight: Numbers, bias: Numbers, { rows, n, eps }: NormRows): Float64Array {
  return byRow(x, n, rows, (xs) =>
    normalised(xs, eps).values.map((v, i) => v * (weight[i] as number) + (bias[i] as number)),
  )
}

/** dx of layerNorm. */
export function layerNormBackwardRows(x: Numbers, weight: Numbers, dy: Numbers, dims: NormRows): Float64Array {
  const { rows, n, eps } = dims
  return byRow(x, n, rows, (xs, row) => {
    const { values, r } = normalised(xs, eps)
    const g = rowOf(dy, n, row).map((v, i) => v * (weight[i] as number))
    const [mean, along] = [meanOf(g), meanOf(values.map((v, i) => v * (g[i] as number)))]
    return values.map((v, i) => r * ((g[i] as number) - mean - v * along))
  })
}

function inverseRms(xs: readonly number[], eps: number): number {
  return 1 / Math.sqrt(meanOf(xs.map((v) => v * v)) + eps)
}

function normalised(xs: readonly number[], eps: number): { values: number[]; r: number } {
  const mean = meanOf(xs)
  const r = 1 / Math.sqrt(meanOf(xs.map((v) => (v - mean) ** 2)) + eps)
  return { values: xs.map((v) => (v - mean) * r), r }
}
