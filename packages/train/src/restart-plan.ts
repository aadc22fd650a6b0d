/** Whether a model can be trained with restarts, and how many there will be: asked before the first step, and by who only plans a run. */
import type { Adapter, Model, Site } from "@peftjs/core"
import {
  attach,
  bindModel,
  engineOf,
  freeAdapter,
  hostValues,
  makeAdapterAsync,
  mergedValue,
  mergePlan,
  PeftError,
  weightAt,
} from "@peftjs/core"
import { type RestartOptions, type Restarts, requireCycles, restartsIn, settleRestarts } from "./restarts.ts"
import { isTrained } from "./stage.ts"

/**
 * The restarts of a run, with defaults; `restarts`: how many, where the number of steps is known.
 * Throws E_OPTION for numbers that do not fit and for layers that cannot be merged into, E_NOT_MERGEABLE for methods.
 */
export function planRestarts(
  model: Model,
  options: RestartOptions,
  totalSteps?: number,
): Restarts & { readonly restarts?: number } {
  const restarts = settleRestarts(options)
  requireRestartable(model, restarts.fullSteps)
  if (totalSteps === undefined) return restarts
  requireCycles(restarts, totalSteps)
  return { ...restarts, restarts: restartsIn(restarts, totalSteps) }
}

/** Throws E_OPTION, E_NOT_MERGEABLE. */
export function requireRestartable(model: Model, fullSteps: number): void {
  const enabled = model.view.adapters.filter((a) => a.enabled)
  const wrong = (message: string): PeftError => new PeftError("E_OPTION", `[train] ${message}`)
  if (enabled.length === 0)
    throw wrong("restarts merge adapters, and the model has none; adapt it, or train without restarts")
  const loaded = enabled.find((a) => a.loaded)
  if (loaded && fullSteps > 0)
    throw wrong(
      `full training before restarts would discard what the adapter "${loaded.name}" was loaded with; leave one of them out`,
    )
  mergePlan(model, { overlays: false })
  for (const site of sitesOf(model)) {
    if (weightAt(model.definition, model.view, site).replaced)
      throw wrong(`restarts cannot merge at ${site.path}, of which single tokens are trained; exclude the layer`)
    const tied = [...model.sites.values()].some((other) => other !== site && other.param === site.param)
    const above = model.view.overlays.get(site.param)
    if (tied && above && isTrained(above))
      throw wrong(`restarts cannot merge at ${site.path}: it shares a weight that is trained itself; exclude the layer`)
  }
}

/** Above this share of the largest weight, a new adapter changes its layer by more than rounding. */
const rounding = 1e-4

/** Refuses adapters that would move the model whenever they start anew: tried at the smallest layer of each. Throws E_OPTION. */
export async function requireNeutralStart(model: Model): Promise<void> {
  for (const adapter of model.view.adapters) {
    if (!adapter.enabled || (await movedBy(model, adapter)) <= rounding) continue
    throw new PeftError(
      "E_OPTION",
      `[train] ${adapter.method.name} does not leave a layer as it is where it starts, so that every restart would move the model; choose another init`,
    )
  }
}

/** How much a new adapter changes a layer, as a share of its largest weight. */
async function movedBy({ definition, view }: Model, { name, method, sites }: Adapter): Promise<number> {
  const size = (path: string): number => (definition.sites.get(path)?.in ?? 0) * (definition.sites.get(path)?.out ?? 0)
  const [path] = [...sites.keys()].sort((a, b) => size(a) - size(b))
  if (path === undefined) return 0
  const bare = bindModel(definition, { adapters: [], overlays: view.overlays })
  const adapter = await makeAdapterAsync(bare, method, [path], { name, seed: 0 })
  try {
    const over = attach(bare, adapter)
    const plan = mergePlan(over, { overlays: false })
    const site = plan.definition.sites.get(path) as Site
    const { values } = await mergedValue(over, plan, site.param)
    const weight = weightAt(definition, bare.view, definition.sites.get(path) as Site)
    const own = await hostValues(engineOf(definition.backend), weight)
    const largest = own.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
    const apart = own.reduce((most, x, i) => Math.max(most, Math.abs(x - (values[i] as number))), 0)
    return apart / Math.max(largest, Number.MIN_VALUE)
  } finally {
    freeAdapter(adapter)
  }
}

function sitesOf(model: Model): Site[] {
  const paths = model.view.adapters.flatMap((a) => (a.enabled ? [...a.sites.keys()] : []))
  return [...new Set(paths)].map((path) => model.sites.get(path) as Site)
}
