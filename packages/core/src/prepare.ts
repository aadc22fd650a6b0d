/**
 * Starts that depend on the base's values, and what remains of the base then: one layer after the other is read, handed to the method, and
 * what it leaves is stored as the layer is, packed or not, so that no more than one layer exists dense. Must not know methods or formats.
 */
import { engineOf } from "./engine.ts"
import { hostValues } from "./host-values.ts"
import type { AdapterMethod, Prepared } from "./method.ts"
import type { Site } from "./model.ts"
import { type Model, weightAt } from "./view.ts"
import { storedLike, type Weight } from "./weight.ts"

/** By site path; `base` stands in for the site's. */
export type PreparedSites = ReadonlyMap<string, { readonly start: Prepared["start"]; readonly base?: Weight }>

/** Empty for a method that does not prepare. Throws what the method and storing throw; then nothing stays on the backend. */
export async function prepareSites(
  model: Model,
  method: AdapterMethod,
  paths: readonly string[],
): Promise<PreparedSites> {
  const found = new Map<string, { readonly start: Prepared["start"]; readonly base?: Weight }>()
  if (!method.prepare) return found
  const { backend, definition, view } = model
  const engine = engineOf(backend)
  try {
    for (const path of paths) {
      const site = model.sites.get(path) as Site
      const weight = weightAt(definition, view, site)
      const stored = async (values: Float32Array): Promise<Float32Array> => {
        const again = await storedLike(backend, weight, values)
        try {
          return await hostValues(engine, again)
        } finally {
          again.free()
        }
      }
      const { start, residual } = await method.prepare({ site, values: await hostValues(engine, weight), stored })
      found.set(path, { start, ...(residual ? { base: await storedLike(backend, weight, residual) } : {}) })
    }
    return found
  } catch (error) {
    freePrepared(found)
    throw error
  }
}

/** Gives back what stood in for bases. */
export function freePrepared(prepared: PreparedSites): void {
  for (const { base } of prepared.values()) base?.free()
}
