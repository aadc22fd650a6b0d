/** A model with its adapters merged, written to a Hugging Face folder weight by weight: no more than one merged weight exists at a time. */
import type { Model } from "@peftjs/core"
import { mergedValue, mergePlan } from "@peftjs/core"
import type { FileSink } from "@peftjs/safetensors"
import { type SaveOptions, valuesOf, writeModel } from "./save.ts"

/**
 * Merges all enabled adapters into a new folder; model and adapters stay as they are. `maxError` is the largest difference between
 * merged layers, as they are stored, and unmerged ones on random inputs.
 * Throws as core's `merge` does, and what the sink throws: then there are no weights in the folder.
 */
export async function saveMerged(
  model: Model,
  sink: FileSink,
  options: SaveOptions = {},
): Promise<{ readonly maxError: number; readonly sites: number }> {
  const plan = mergePlan(model)
  let maxError = 0
  const valueAt = async (path: string, base: Parameters<typeof valuesOf>[1]): Promise<Float32Array> => {
    if (!plan.changed.has(path)) return valuesOf(model, model.view.overlays.get(path) ?? base)
    const { values, error } = await mergedValue(model, plan, path, options.dtype ?? "f32")
    maxError = Math.max(maxError, error)
    return values
  }
  await writeModel(plan.definition, valueAt, sink, options)
  return { maxError, sites: plan.sites.length }
}
