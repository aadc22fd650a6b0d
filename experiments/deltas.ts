/**
 * What training has added to each projection, and its singular values: how many exceed 0.1 (the paper's measure, figure 6 of arXiv
 * 2405.12130) and the effective rank, e to the entropy of the normalised values (Roy & Vetterli 2007). Must not know training.
 */
import { type Model, mergedValue, mergePlan } from "@peftjs/core"

export interface Spectrum {
  /** "q_proj", "up_proj" … */
  readonly projection: string
  /** Layers that the numbers are means over. */
  readonly layers: number
  /** Singular values there are: the smaller side of the matrix. */
  readonly full: number
  /** Of these, above 0.1. */
  readonly above: number
  readonly effectiveRank: number
  /** The largest. */
  readonly largest: number
}

export type Weights = ReadonlyMap<string, { readonly values: Float32Array; readonly rows: number }>

/** The matrices of a model's blocks as they are, adapters included. */
export async function weightsOf(model: Model): Promise<Weights> {
  const plan = mergePlan(model)
  const weights = new Map<string, { values: Float32Array; rows: number }>()
  for (const site of plan.definition.sites.values()) {
    if (site.kind !== "linear" || site.path === model.head) continue
    const { values } = await mergedValue(model, plan, site.param)
    weights.set(site.path, { values, rows: site.out })
  }
  return weights
}

/** One row per projection, means over the layers. */
export function spectra(before: Weights, after: Weights): Spectrum[] {
  const byProjection = new Map<string, Omit<Spectrum, "projection" | "layers">[]>()
  for (const [path, { values, rows }] of after) {
    const start = before.get(path)?.values as Float32Array
    const name = path.split(".").at(-1) as string
    const delta = values.map((w, i) => w - (start[i] as number))
    byProjection.set(name, [...(byProjection.get(name) ?? []), spectrumOf(delta, rows, values.length / rows)])
  }
  return [...byProjection].map(([projection, list]) => {
    const mean = (key: "full" | "above" | "effectiveRank" | "largest"): number =>
      Number((list.reduce((sum, x) => sum + x[key], 0) / list.length).toFixed(3))
    const [full, above, effectiveRank, largest] = [mean("full"), mean("above"), mean("effectiveRank"), mean("largest")]
    return { projection, layers: list.length, full, above, effectiveRank, largest }
  })
}

function spectrumOf(delta: Float32Array, rows: number, columns: number): Omit<Spectrum, "projection" | "layers"> {
  const S = singularValues(delta, rows, columns)
  const sum = S.reduce((a, b) => a + b, 0)
  const entropy = S.reduce((e, s) => (s > 0 ? e - (s / sum) * Math.log(s / sum) : e), 0)
  return {
    ...{ full: S.length, above: S.filter((s) => s > 0.1).length, largest: Math.max(...S) },
    effectiveRank: sum > 0 ? Math.exp(entropy) : 0,
  }
}

/**
 * All of them, in no order: the roots of the eigenvalues of the smaller Gram matrix, by Jacobi's rotations in f64. What is below 1e-8 of
 * the largest is noise, as it is in the f32 matrix.
 */
export function singularValues(matrix: ArrayLike<number>, rows: number, columns: number): number[] {
  const [n, m, own, other] = rows <= columns ? [rows, columns, columns, 1] : [columns, rows, 1, columns]
  const G = Array.from({ length: n }, () => new Float64Array(n))
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) {
      let sum = 0
      for (let k = 0; k < m; k++)
        sum += (matrix[i * own + k * other] as number) * (matrix[j * own + k * other] as number)
      ;(G[i] as Float64Array)[j] = sum
      ;(G[j] as Float64Array)[i] = sum
    }
  for (let sweep = 0; sweep < 30 && rotateAll(G); sweep++);
  return G.map((row, i) => Math.sqrt(Math.max(0, row[i] as number)))
}

/** One sweep over all pairs (Golub & Van Loan, algorithm 8.5.2); false when nothing was left to do. */
function rotateAll(G: readonly Float64Array[]): boolean {
  const n = G.length
  const tiny = 1e-16 * G.reduce((sum, row, i) => sum + (row[i] as number), 0)
  let turned = false
  for (let p = 0; p < n; p++)
    for (let q = p + 1; q < n; q++) {
      const [P, Q] = [G[p] as Float64Array, G[q] as Float64Array]
      const apart = P[q] as number
      if (Math.abs(apart) <= tiny) continue
      turned = true
      const tau = ((Q[q] as number) - (P[p] as number)) / (2 * apart)
      const tan = (tau < 0 ? -1 : 1) / (Math.abs(tau) + Math.hypot(1, tau))
      const cos = 1 / Math.hypot(1, tan)
      const sin = cos * tan
      for (const row of G) {
        const [a, b] = [row[p] as number, row[q] as number]
        row[p] = cos * a - sin * b
        row[q] = sin * a + cos * b
      }
      for (let k = 0; k < n; k++) {
        const [a, b] = [P[k] as number, Q[k] as number]
        P[k] = cos * a - sin * b
        Q[k] = sin * a + cos * b
      }
    }
  return turned
}
