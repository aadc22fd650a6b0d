/**
 * An adapter's update of a layer as a LoRA: exactly where MoRA is one, by the best approximation of a rank for MoRA with rotation and for any
 * other method that merges. Values on the host; writes no files.
 */
import {
  adapterOf,
  bindModel,
  engineOf,
  hostValues,
  type Model,
  mergedValue,
  mergePlan,
  PeftError,
  type Site,
  vectorAt,
  weightAt,
} from "@peftjs/core"
import { moraDelta, moraFactors } from "./delta.ts"
import { singularValues, singularValuesOfProduct, truncatedSvd } from "./svd.ts"
import type { MoraType } from "./types.ts"

export interface LoraFactors {
  readonly rank: number
  /** [rank, in], row-major; of an embedding `lora_embedding_A`, [rank, ids]. */
  readonly A: Float32Array
  /** [out, rank], row-major; of an embedding `lora_embedding_B`, [width, rank]. W' = W + B·A: scaling 1, so alpha is the rank. */
  readonly B: Float32Array
  /** ‖delta - B·A‖ / ‖delta‖ (Frobenius). 0 where the LoRA is exact, and for an update of zero. */
  readonly error: number
  /** ‖delta‖ (Frobenius). */
  readonly norm: number
}

/**
 * The LoRA of one layer's update.
 *
 * @param rank highest rank; an exact LoRA needs MoRA's R and is given where no rank is asked for, or one as high; else 64 by default
 * @throws E_ADAPTER_NAME (no such adapter, or none at that path), E_NOT_MERGEABLE, E_MERGE_BIAS (the update has a bias), E_MERGE_NOT_FINITE
 */
export async function loraFactors(
  model: Model,
  path: string,
  { name, rank }: { readonly name?: string; readonly rank?: number } = {},
): Promise<LoraFactors> {
  const layer = await lookAt(model, path, name)
  const exact = exactFactors(layer)
  if (exact && (rank ?? Number.POSITIVE_INFINITY) >= exact.rank)
    return { ...exact, error: 0, norm: Math.hypot(...singularValuesOfProduct(exact.B, exact.A, exact.rank)) }
  return approximate(await updateOf(model, layer, name), layer.site, rank ?? 64)
}

/**
 * What the adapter adds to the weight of one layer: [out, in], also of an embedding. Throws as `loraFactors` does.
 */
export async function deltaOf(model: Model, path: string, name?: string): Promise<Float32Array> {
  return updateOf(model, await lookAt(model, path, name), name)
}

/** All singular values of what the adapter adds to the weight of one layer, descending; zeros may be left out. Throws as `loraFactors` does. */
export async function deltaSpectrum(model: Model, path: string, name?: string): Promise<Float64Array> {
  const layer = await lookAt(model, path, name)
  const exact = exactFactors(layer)
  if (exact) return singularValuesOfProduct(exact.B, exact.A, exact.rank)
  return singularValues(await updateOf(model, layer, name), layer.site.out, layer.site.in)
}

interface AdaptedLayer {
  readonly site: Site
  /** Where the method is MoRA. */
  readonly M: Float32Array | undefined
  readonly type: MoraType
}

/** The LoRA that MoRA without rotation is. */
function exactFactors({ site, M, type }: AdaptedLayer): ReturnType<typeof moraFactors> | undefined {
  return M && type !== "rotation" ? moraFactors(type, site, M) : undefined
}

/** [out, in]. */
async function updateOf(
  model: Model,
  { site, M, type }: AdaptedLayer,
  name: string | undefined,
): Promise<Float32Array> {
  return M ? moraDelta(type, site, M) : probedDelta(model, site, name)
}

async function lookAt(model: Model, path: string, name: string | undefined): Promise<AdaptedLayer> {
  const { method, sites } = adapterOf(model, name)
  const site = model.sites.get(path)
  const state = sites.get(path)
  if (!site || !state) throw new PeftError("E_ADAPTER_NAME", `[mora] the adapter does not sit on ${path}`)
  const M = method.name === "mora" ? state.params.M?.value : undefined
  return { site, M: (await M?.data()) as Float32Array | undefined, type: method.config.type as MoraType }
}

function approximate(delta: Float32Array, { in: width, out }: Site, most: number): LoraFactors {
  const { U, S, V } = truncatedSvd(delta, out, width, most)
  const rank = S.length
  const roots = S.map(Math.sqrt)
  const B = Float32Array.from({ length: out * rank }, (_, at) => {
    const k = at % rank
    return (U[k]?.[Math.floor(at / rank)] as number) * (roots[k] as number)
  })
  const A = new Float32Array(rank * width)
  V.forEach(
    (v, k) =>
      void A.set(
        v.map((x) => x * (roots[k] as number)),
        k * width,
      ),
  )
  return { rank, A, B, ...distance(delta, A, B, rank, width) }
}

function distance(
  delta: Float32Array,
  A: Float32Array,
  B: Float32Array,
  rank: number,
  width: number,
): { error: number; norm: number } {
  let [missed, all] = [0, 0]
  const row = new Float64Array(width)
  for (let at = 0; at < delta.length; at += width) {
    row.set(delta.subarray(at, at + width))
    for (const x of row) all += x * x
    for (let k = 0; k < rank; k++) {
      const b = B[(at / width) * rank + k] as number
      for (let c = 0; c < width; c++) (row[c] as number) -= b * (A[k * width + c] as number)
    }
    for (const x of row) missed += x * x
  }
  return { error: all === 0 ? 0 : Math.sqrt(missed / all), norm: Math.sqrt(all) }
}

/** [out, in]: the merged weight without what is below the adapter, which is the base and what the adapter trains of it. */
async function probedDelta(model: Model, site: Site, name: string | undefined): Promise<Float32Array> {
  const adapter = { ...adapterOf(model, name), enabled: true }
  const { definition, view, backend } = model
  const alone = bindModel(definition, { ...view, adapters: [adapter] })
  const below = { ...view, adapters: [{ ...adapter, sites: new Map() }] }
  const plan = mergePlan(alone)
  if (site.bias !== undefined) {
    const { values } = await mergedValue(alone, plan, site.bias)
    const bias = (await vectorAt(definition, below, site.bias).data()) as Float32Array
    if (values.some((b, i) => b !== bias[i]))
      throw new PeftError(
        "E_MERGE_BIAS",
        `[mora] the update at ${site.path} has a bias, which a LoRA has not; merge it instead`,
      )
  }
  const { values } = await mergedValue(alone, plan, plan.definition.sites.get(site.path)?.param as string)
  const before = await hostValues(engineOf(backend), weightAt(definition, below, site))
  const delta = values.map((w, i) => w - (before[i] as number))
  return site.kind === "linear" ? delta : transposed(delta, site.in, site.out)
}

function transposed(x: Float32Array, rows: number, columns: number): Float32Array {
  return Float32Array.from({ length: x.length }, (_, at) => x[(at % rows) * columns + Math.floor(at / rows)] as number)
}
