/**
 * Merging adapters into the base, once for all methods: by probing. An adapted layer that is affine in x has the matrix
 * W' = (forward(I) - forward(0))ᵀ and the bias forward(0). Nothing of the base is changed: the result is another model.
 */
import { fromFloat32, toFloat32 } from "@peftjs/safetensors"
import { fileDtypes } from "./dtype.ts"
import { engineOf, free, full, hold, noGrad, scope, tensor } from "./engine.ts"
import { PeftError } from "./errors.ts"
import { call, coordinate, input, scalar } from "./expr.ts"
import { computed, hostValues } from "./host-values.ts"
import type { ModelDefinition, Site } from "./model.ts"
import { keyOf, normals } from "./random.ts"
import { foldAdapters, type Layer, layerAt } from "./run.ts"
import { concat, isTensor, map, type Tensor } from "./tensor.ts"
import type { Model } from "./view.ts"
import { bindModel, parameterOf, vectorAt, weightAt } from "./view.ts"
import { freeValues, uploadDense, type Weight } from "./weight.ts"

/** Columns of the identity that are put through a layer at a time. */
const probeRows = 256
/** Random inputs by which a merged layer is compared with the unmerged one. */
const checkRows = 8

export interface MergeReport {
  /** The model without adapters, their effect in its weights. The one it was made from still works: that is how to unmerge. */
  readonly model: Model
  /** Layers that were merged. */
  readonly sites: number
  /** Largest difference between merged and unmerged layers on random inputs of N(0, 1). */
  readonly maxError: number
}

/** What a merge changes. */
export interface MergePlan {
  /** The model's definition, in which a head that no longer shares its embedding's weight has a parameter of its own. */
  readonly definition: ModelDefinition
  /** Paths of the adapted layers. */
  readonly sites: readonly string[]
  /** Paths of the parameters that change. */
  readonly changed: ReadonlySet<string>
}

export type MergedDType = keyof typeof fileDtypes

/**
 * Merges all enabled adapters. Merged weights are f32; a tied embedding or head that is changed alone gets a weight of its own, and
 * the config says so. `unmerge` gives the memory back.
 * Throws E_NOT_MERGEABLE (a method whose effect is not affine), E_MERGE_BIAS (it would need a bias the layer lacks),
 * E_MERGE_NOT_FINITE (NaN or Inf in the result); the base and the adapters are as before then.
 */
export async function merge(model: Model): Promise<MergeReport> {
  const plan = mergePlan(model)
  const { backend, view } = model
  const overlays = new Map(view.overlays)
  const made: (Tensor | Weight)[] = []
  let maxError = 0
  try {
    for (const path of plan.changed) {
      const { values, shape, error } = await mergedValue(model, plan, path)
      const value = shape.length === 2 ? uploadDense(backend, values, "f32", shape) : tensor(backend, values, shape)
      made.push(value)
      overlays.set(path, value)
      maxError = Math.max(maxError, error)
    }
  } catch (error) {
    freeValues(made)
    throw error
  }
  const merged = bindModel(plan.definition, { adapters: [], overlays })
  origins.set(merged, { model, made })
  return { model: merged, sites: plan.sites.length, maxError }
}

const origins = new WeakMap<Model, { model: Model; made: readonly (Tensor | Weight)[] }>()

/** Gives back the memory of merged weights and returns the model they were made from, which computes exactly what it did. Throws E_NOT_MERGED. */
export function unmerge(merged: Model): Model {
  const origin = origins.get(merged)
  if (!origin)
    throw new PeftError("E_NOT_MERGED", "[core] this model is not the result of merge, or was unmerged before")
  freeValues(origin.made)
  origins.delete(merged)
  return origin.model
}

/**
 * What a merge of the enabled adapters would change; without `overlays`, only of what methods add to their layers: what is trained beside
 * stays with its adapter. Throws E_NOT_MERGEABLE.
 */
export function mergePlan(model: Model, { overlays = true }: { readonly overlays?: boolean } = {}): MergePlan {
  const enabled = model.view.adapters.filter((a) => a.enabled)
  const rigid = enabled.find((a) => !a.method.mergeable)
  if (rigid) {
    throw new PeftError(
      "E_NOT_MERGEABLE",
      `[core] ${rigid.method.name} is not a linear map of its input, so it cannot be merged; save the adapter`,
    )
  }
  const overlaid = new Set(overlays ? enabled.flatMap((a) => [...a.overlays.keys()]) : [])
  const adapted = [...model.sites.values()].filter((site) => enabled.some((a) => a.sites.has(site.path)))
  const touched = (site: Site): boolean => adapted.includes(site) || overlaid.has(parameterOf(site))
  const definition = untie(model, touched)
  const matrices = [...model.sites.values()]
    .filter(touched)
    .map((site) => definition.sites.get(site.path)?.param as string)
  const biases = adapted.flatMap((site) => site.bias ?? [])
  const vectors = [...overlaid].filter((path) => isTensor(model.params.get(path)))
  return { definition, sites: adapted.map((site) => site.path), changed: new Set([...matrices, ...biases, ...vectors]) }
}

/** Where a head shares the embedding's weight and one of them is touched, the head gets a parameter of its own. */
function untie({ definition, view }: Model, touched: (site: Site) => boolean): ModelDefinition {
  const all = [...definition.sites.values()]
  const apart = all.filter((site) => site.tiedTo !== undefined && all.some((s) => s.param === site.param && touched(s)))
  if (apart.length === 0) return definition
  const sites = new Map(definition.sites)
  const params = new Map(definition.params)
  for (const site of apart) {
    const { tiedTo: _, ...own } = { ...site, param: parameterOf(site) }
    sites.set(site.path, own)
    params.set(own.param, weightAt(definition, { adapters: [], overlays: view.overlays }, site))
  }
  return { ...definition, sites, params, config: { ...definition.config, tie_word_embeddings: false } }
}

/**
 * A changed parameter as it is after the merge, rounded to `dtype`, on the host: a matrix [out, in] (an embedding: [ids, width]) or a
 * vector; `error` is how far a layer made of it is from the adapted one. Throws E_MERGE_BIAS, E_MERGE_NOT_FINITE.
 */
export async function mergedValue(
  model: Model,
  { definition, sites }: MergePlan,
  path: string,
  dtype: MergedDType = "f32",
): Promise<{ values: Float32Array; shape: readonly number[]; error: number }> {
  const rounded = (values: Float32Array): Float32Array => {
    const stored = toFloat32(fileDtypes[dtype], fromFloat32(fileDtypes[dtype], values))
    if (stored.every(Number.isFinite)) return stored
    throw new PeftError(
      "E_MERGE_NOT_FINITE",
      `[core] the merged ${path} holds NaN or Inf in ${dtype}: the adapter is broken; the base was not changed`,
    )
  }
  const site = [...definition.sites.values()].find((s) => s.param === path)
  if (site && sites.includes(site.path)) return mergeMatrix(model, site.path, rounded)
  if (site) {
    const weight = weightAt(model.definition, model.view, model.sites.get(site.path) as Site)
    const values = await hostValues(engineOf(model.backend), weight)
    return { values: rounded(values), shape: weight.shape, error: 0 }
  }
  const owner = sites.map((p) => model.sites.get(p) as Site).find((s) => s.bias === path)
  const values = owner
    ? await atZero(model, layerAt(model.definition, model.view, owner))
    : await hostValues(engineOf(model.backend), vectorAt(model.definition, model.view, path))
  return { values: rounded(values), shape: [values.length], error: 0 }
}

async function mergeMatrix(
  model: Model,
  path: string,
  rounded: (values: Float32Array) => Float32Array,
): Promise<{ values: Float32Array; shape: readonly number[]; error: number }> {
  const site = model.sites.get(path) as Site
  const layer = layerAt(model.definition, model.view, site)
  const { shape } = layer.base
  if (site.kind === "embedding") return { values: rounded(await probeIds(model, layer)), shape, error: 0 }
  const values = rounded(await probeIdentity(model, layer))
  const offset = rounded(await atZero(model, layer))
  if (!layer.bias && offset.some((x) => x !== 0)) {
    throw new PeftError(
      "E_MERGE_BIAS",
      `[core] merging at ${path} needs a bias, and the layer has none; keep the adapter, or train it without a bias`,
    )
  }
  return { values, shape, error: await difference(model, layer, values, offset) }
}

const compute = (model: Model, body: () => Tensor): Promise<Float32Array> => computed(engineOf(model.backend), body)

// 1 where the column is the row, counted from the block's first.
const identity = call("add", input(0), call("eq", coordinate(1), call("add", coordinate(0), scalar(0))))

/** [out, in] from blocks of the identity; the base's own part is read off instead of multiplied out. */
async function probeIdentity(model: Model, layer: Layer): Promise<Float32Array> {
  const { in: columns, out: rows } = layer.site
  const whole = new Float32Array(rows * columns)
  const unbiased: Layer = { ...layer, bias: undefined }
  const none = await atZero(model, unbiased)
  // Widened once, however many blocks are read off.
  const base = noGrad(engineOf(model.backend), () => layer.base.parts.map((part) => widened(model, layer.base, part)))
  try {
    for (let start = 0; start < columns; start += probeRows) {
      const n = Math.min(probeRows, columns - start)
      const block = await compute(model, () => {
        const probe = map(identity, [full(model.backend, [n, columns], 0)], { scalars: [start] })
        const read = (): Tensor =>
          concat(
            base.map((part) => part.slice(1, start, start + n).permute([1, 0])),
            1,
          )
        return foldAdapters(model.view, unbiased, {}, probe, (x) => (x === probe ? read() : layer.base.matmul(x)))
      })
      for (let i = 0; i < n; i++)
        for (let r = 0; r < rows; r++)
          whole[r * columns + start + i] = (block[i * rows + r] as number) - (none[r] as number)
    }
    return whole
  } finally {
    for (const part of base) free(part)
  }
}

function widened(model: Model, weight: Weight, part: Weight["parts"][number]): Tensor {
  return scope(engineOf(model.backend), () => hold(weight.rows(part)))
}

async function probeIds(model: Model, layer: Layer): Promise<Float32Array> {
  const [ids, width] = layer.base.shape
  const whole = new Float32Array(ids * width)
  for (let start = 0; start < ids; start += probeRows) {
    const some = Int32Array.from({ length: Math.min(probeRows, ids - start) }, (_, i) => start + i)
    const rows = (): Tensor => foldAdapters(model.view, layer, {}, tensor(model.backend, some, [some.length], "i32"))
    whole.set(await compute(model, rows), start * width)
  }
  return whole
}

/** The layer's answer to zero: its bias once merged. */
function atZero(model: Model, layer: Layer): Promise<Float32Array> {
  return compute(model, () => foldAdapters(model.view, layer, {}, full(model.backend, [1, layer.site.in], 0)))
}

async function difference(model: Model, layer: Layer, weight: Float32Array, offset: Float32Array): Promise<number> {
  const { backend } = model
  const { in: columns, out, path } = layer.site
  const values = normals(keyOf(0, "merge", path), checkRows * columns, 1)
  const merged = uploadDense(backend, weight, "f32", [out, columns])
  try {
    const apart = await compute(model, () => {
      const x = tensor(backend, values, [checkRows, columns])
      const after = merged.matmul(x).add(tensor(backend, offset, [out]))
      return foldAdapters(model.view, layer, {}, x).sub(after).abs().max()
    })
    return apart[0] as number
  } finally {
    merged.free()
  }
}
