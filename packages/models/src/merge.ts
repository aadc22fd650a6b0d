/** A model with its adapters merged, written to a Hugging Face folder weight by weight: no more than one merged weight exists at a time. */
import type { MergePlan, Model, Tensor, Weight, WeightFormat } from "@peftjs/core"
import { engineOf, hostValues, mergedValue, mergePlan, PeftError } from "@peftjs/core"
import type { FileSink } from "@peftjs/safetensors"
import { type SaveOptions, storedOf, type Values, valuesOf, writeModel } from "./save.ts"

export interface SaveMergedOptions extends SaveOptions {
  /** Packs merged weights again, where the base's are packed. Without it the folder is dense. */
  readonly weights?: WeightFormat
}

export interface SavedMerge {
  /** Largest difference between merged layers, before they are packed again, and unmerged ones on random inputs. */
  readonly maxError: number
  readonly sites: number
  /** What packing again does to merged weights: the largest and the mean difference, and the largest as a share of its weight's largest value. */
  readonly packing?: { readonly maxError: number; readonly meanError: number; readonly relative: number }
}

/**
 * Merges all enabled adapters into a new folder; model and adapters stay as they are. What a packed base holds becomes dense, unless
 * `weights` packs it again, which loses part of what was learned: `packing` says how much.
 * Throws as core's `merge` does, E_OPTION (a base that is not packed in the format), and what the sink throws: then there are no weights
 * in the folder.
 */
export async function saveMerged(model: Model, sink: FileSink, options: SaveMergedOptions = {}): Promise<SavedMerge> {
  const plan = mergePlan(model)
  const packed = options.weights ? await packAgain(model, plan, options.weights) : undefined
  let maxError = packed?.merged ?? 0
  const mergedAt = async (path: string): Promise<Float32Array> => {
    const { values, error } = await mergedValue(model, plan, path, options.dtype ?? "f32")
    maxError = Math.max(maxError, error)
    return values
  }
  const valueAt = (path: string, base: Tensor | Weight): Values =>
    plan.changed.has(path) ? mergedAt(path) : valuesOf(model, model.view.overlays.get(path) ?? base)
  const storedAt = packed && ((path: string, base: Tensor | Weight) => storedOf(packed.weights.get(path) ?? base))
  try {
    await writeModel(plan.definition, valueAt, sink, options, storedAt)
  } finally {
    for (const weight of packed?.weights.values() ?? []) weight.free()
  }
  return { maxError, sites: plan.sites.length, ...(packed ? { packing: packed.packing } : {}) }
}

interface PackedAgain {
  readonly weights: ReadonlyMap<string, Weight>
  readonly merged: number
  readonly packing: NonNullable<SavedMerge["packing"]>
}

async function packAgain(model: Model, plan: MergePlan, format: WeightFormat): Promise<PackedAgain> {
  const weights = new Map<string, Weight>()
  let [merged, most, relative, sum, count] = [0, 0, 0, 0, 0]
  const bases = [...plan.definition.params].filter(([, base]) => storedOf(base)) as [string, Weight][]
  const foreign = bases.find(([path, { format: name }]) => name !== format.name || model.view.overlays.has(path))
  if (foreign || bases.length === 0) {
    const found = foreign ? `${foreign[0]} is ${foreign[1].format}, or was replaced` : "no layer of the base is packed"
    throw new PeftError(
      "E_OPTION",
      `[models] merged weights are packed again as ${format.name} only over a base that is so: ${found}; merge into dense weights, and quantise those`,
    )
  }
  try {
    for (const [path, { shape }] of bases) {
      if (!plan.changed.has(path)) continue
      const { values, error } = await mergedValue(model, plan, path)
      async function* whole(): AsyncGenerator<Float32Array> {
        yield values
      }
      const weight = await format.encode(model.backend, shape, whole())
      weights.set(path, weight)
      const { apart, largest, total } = compare(values, await hostValues(engineOf(model.backend), weight))
      merged = Math.max(merged, error)
      most = Math.max(most, apart)
      relative = Math.max(relative, largest === 0 ? 0 : apart / largest)
      sum += total
      count += values.length
    }
    return { weights, merged, packing: { maxError: most, meanError: count === 0 ? 0 : sum / count, relative } }
  } catch (error) {
    for (const weight of weights.values()) weight.free()
    throw error
  }
}

/** The largest difference, the sum of all, and the largest value of the first. */
function compare(values: Float32Array, others: Float32Array): Record<"apart" | "total" | "largest", number> {
  let [apart, total, largest] = [0, 0, 0]
  for (let i = 0; i < values.length; i++) {
    const difference = Math.abs((values[i] as number) - (others[i] as number))
    apart = Math.max(apart, difference)
    total += difference
    largest = Math.max(largest, Math.abs(values[i] as number))
  }
  return { apart, total, largest }
}
