/** The two places where a method takes part in training: its penalty in the loss, and its hook after the optimizer. */
import type { Adapter, Model, Param, Params, Site, Tensor } from "@peftjs/core"
import { assign, engineOf, noGrad, scope } from "@peftjs/core"
import type { Gradients } from "./gradients.ts"

const enabled = (model: Model): Adapter[] => model.view.adapters.filter((adapter) => adapter.enabled)

const valuesOf = (params: Readonly<Record<string, Param>>): Params =>
  Object.fromEntries(Object.entries(params).map(([name, { value }]) => [name, value]))

/** The penalties of all enabled adapters at all their sites, added; undefined when no method has one. Part of the recorded loss. */
export function penaltyOf(model: Model): Tensor | undefined {
  const penalties = enabled(model).flatMap(({ method, sites, shared }) =>
    [...sites].flatMap(([path, { params }]) => {
      const site = model.sites.get(path) as Site
      return method.penalty?.(valuesOf(params), { site, shared, count: sites.size }).sum() ?? []
    }),
  )
  return penalties.length > 0 ? penalties.reduce((a, b) => a.add(b)) : undefined
}

/**
 * Calls `afterStep` of every enabled adapter that has one. Gradients are those of the whole step, before clipping.
 * What a hook makes before its first await lives that long; copies to the host (`data()`) that it has begun are safe.
 */
export async function afterStep(
  model: Model,
  gradients: Gradients,
  { step, gradScale }: { step: number; gradScale: number },
): Promise<void> {
  const engine = engineOf(model.backend)
  for (const { method, sites } of enabled(model)) {
    if (!method.afterStep) continue
    const states = [...sites].map(([path, { params }]) => {
      const found = Object.entries(params).flatMap(([name, { value }]) => {
        const gradient = gradients.of(value)
        return gradient ? [[name, gradient] as const] : []
      })
      return [path, { params: valuesOf(params), gradients: Object.fromEntries(found) }] as const
    })
    const state = { step, gradScale, sites: new Map(states), set: assign }
    await noGrad(engine, () => scope(engine, () => method.afterStep?.(state)))
  }
}
