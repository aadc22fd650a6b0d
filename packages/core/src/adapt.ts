/** Attaching methods to a model and taking them off again. The model itself is never changed: adapting gives another view of it. */
import { engineOf, free, hold, noGrad, scope } from "./engine.ts"
import { PeftError } from "./errors.ts"
import { makeInit } from "./init.ts"
import type { AdapterMethod, Param } from "./method.ts"
import type { Site } from "./model.ts"
import { makeOverlays, type OverlayOptions } from "./overlays.ts"
import { freePrepared, type PreparedSites, prepareSites } from "./prepare.ts"
import type { Targets } from "./targets.ts"
import { matchTargets, requireMatches } from "./targets.ts"
import type { Tensor } from "./tensor.ts"
import type { Adapter, Model, SiteState } from "./view.ts"
import { bindModel, weightAt } from "./view.ts"
import { freeValues } from "./weight.ts"

export interface AdaptOptions extends Targets, OverlayOptions {
  /** Name of the adapter; "default" unless told otherwise. Several adapters on one model need different names. */
  readonly name?: string
  /** Seed of the initial values. */
  readonly seed?: number
}

/**
 * A view of the model with `method` over the sites that the targets select.
 * Throws E_TARGET when a target entry selects nothing, E_SITE_KIND when the method cannot adapt what is selected, E_ADAPTER_NAME when
 * the name is taken, E_OPTION and E_TOKEN_ID for what is to be trained beside, E_PREPARE for a method that `adaptAsync` is needed for, and
 * what the method throws.
 */
export function adapt(model: Model, method: AdapterMethod, options: AdaptOptions = {}): Model {
  const { sites, making } = planned(model, options)
  return attach(model, makeAdapter(model, method, sites, making))
}

/** The same for any method, also one that looks at the base's values before it starts. Throws as `adapt` does, but for E_PREPARE. */
export async function adaptAsync(model: Model, method: AdapterMethod, options: AdaptOptions = {}): Promise<Model> {
  const { sites, making } = planned(model, options)
  return attach(model, await makeAdapterAsync(model, method, sites, making))
}

function planned(model: Model, options: AdaptOptions): { sites: readonly string[]; making: MakeOptions } {
  const { name = "default", seed = 0, bias, modulesToSave, trainableTokenIndices, ensureWeightTying } = options
  const overlays = {
    ...(bias === undefined ? {} : { bias }),
    ...(modulesToSave === undefined ? {} : { modulesToSave }),
    ...(trainableTokenIndices === undefined ? {} : { trainableTokenIndices }),
    ...(ensureWeightTying === undefined ? {} : { ensureWeightTying }),
  }
  const match = matchTargets(model, options)
  requireMatches(model, options, match)
  return { sites: match.sites, making: { name, seed, overlays } }
}

export interface MakeOptions {
  readonly name: string
  readonly seed: number
  readonly overlays?: OverlayOptions
  /** adapter_config.json as it was loaded. */
  readonly loaded?: Readonly<Record<string, unknown>>
}

/** The adapter itself, initialised on the named sites; `attach` puts it on. Throws as `adapt` does. */
export function makeAdapter(
  model: Model,
  method: AdapterMethod,
  paths: readonly string[],
  options: MakeOptions,
): Adapter {
  checkFits(model, method, paths, options.name)
  if (!method.prepare) return initialised(model, method, paths, options, new Map())
  throw new PeftError(
    "E_PREPARE",
    `[core] ${method.name} looks at the base's values before it starts, which takes a wait; use await adaptAsync(…) instead of adapt(…)`,
  )
}

/** The same for any method. Throws as `adaptAsync` does; then nothing stays on the backend. */
export async function makeAdapterAsync(
  model: Model,
  method: AdapterMethod,
  paths: readonly string[],
  options: MakeOptions,
): Promise<Adapter> {
  checkFits(model, method, paths, options.name)
  const prepared = await prepareSites(model, method, paths)
  try {
    return initialised(model, method, paths, options, prepared)
  } catch (error) {
    freePrepared(prepared)
    throw error
  }
}

/** Before anything is read or made. Throws E_ADAPTER_NAME, E_SITE_KIND. */
function checkFits(model: Model, method: AdapterMethod, paths: readonly string[], name: string): void {
  if (name === "" || /[/\\]/.test(name)) {
    throw new PeftError(
      "E_ADAPTER_NAME",
      `[core] an adapter cannot be called ${JSON.stringify(name)}; use a name without slashes`,
    )
  }
  if (model.view.adapters.some((a) => a.name === name)) {
    throw new PeftError("E_ADAPTER_NAME", `[core] the model already has an adapter called "${name}"; give another name`)
  }
  const misfit = paths.map((path) => model.sites.get(path) as Site).find((site) => !method.sites.includes(site.kind))
  if (misfit) {
    throw new PeftError(
      "E_SITE_KIND",
      `[${method.name}] ${misfit.path} is of kind ${misfit.kind}; ${method.name} adapts ${method.sites.join(", ")}; exclude it`,
    )
  }
}

function initialised(
  model: Model,
  method: AdapterMethod,
  paths: readonly string[],
  options: MakeOptions,
  prepared: PreparedSites,
): Adapter {
  const { name, seed, loaded, overlays = {} } = options
  const sites = paths.map((path) => model.sites.get(path) as Site)
  const engine = engineOf(model.backend)
  const kept: Tensor[] = []
  const keep = (tensor: Tensor): Tensor => {
    const copy = hold(tensor)
    kept.push(copy)
    return copy
  }
  const make = (): Adapter =>
    scope(engine, () => {
      const made = method.setup?.(sites, makeInit(model.backend, seed, "shared")) ?? {}
      const shared = Object.fromEntries(Object.entries(made).map(([key, value]) => [key, keep(value)]))
      const states = sites.map((site): [string, SiteState] => {
        const init = makeInit(model.backend, seed, site.path)
        const weight = weightAt(model.definition, model.view, site)
        const { start = {}, base } = prepared.get(site.path) ?? {}
        const { params } = method.init({ site, base: weight, shared, init, start })
        const held = Object.entries(params).map(([key, p]): [string, Param] => {
          const value = keep(p.value)
          value.requiresGrad = p.trainable
          return [key, { ...p, value }]
        })
        return [site.path, { params: Object.fromEntries(held), ...(base ? { base } : {}) }]
      })
      return {
        name,
        method,
        sites: new Map(states),
        shared,
        overlays: makeOverlays(model, method.name, sites, overlays, keep, loaded === undefined),
        overlayOptions: overlays,
        constants: new Map(),
        enabled: true,
        ...(loaded ? { loaded } : {}),
      }
    })
  try {
    return noGrad(engine, make)
  } catch (error) {
    for (const tensor of kept) free(tensor)
    throw error
  }
}

/** A view with one more adapter, outermost. */
export function attach(model: Model, adapter: Adapter): Model {
  return bindModel(model.definition, { ...model.view, adapters: [...model.view.adapters, adapter] })
}

/** The adapter of that name, or the only one. Throws E_ADAPTER_NAME. */
export function adapterOf(model: Model, name?: string): Adapter {
  const { adapters } = model.view
  const found =
    name === undefined && adapters.length === 1 ? adapters[0] : adapters.find((a) => a.name === (name ?? "default"))
  if (found) return found
  const names = adapters.map((a) => `"${a.name}"`).join(", ") || "none"
  throw new PeftError("E_ADAPTER_NAME", `[core] no adapter called "${name ?? "default"}"; the model has ${names}`)
}

/** Switches an adapter off: the model behaves as without it until `enable`, also where it has trained biases of the base. */
export function disable(model: Model, name?: string): void {
  adapterOf(model, name).enabled = false
}

export function enable(model: Model, name?: string): void {
  adapterOf(model, name).enabled = true
}

/** Takes an adapter off, frees its tensors and returns the view without it, which computes exactly what it did before. */
export function detach(model: Model, name?: string): Model {
  const adapter = adapterOf(model, name)
  freeAdapter(adapter)
  return bindModel(model.definition, { ...model.view, adapters: model.view.adapters.filter((a) => a !== adapter) })
}

/** Gives back the memory of an adapter that is on no model (any more). */
export function freeAdapter({ sites, shared, overlays, constants }: Adapter): void {
  for (const { params, base } of sites.values()) {
    for (const p of Object.values(params)) free(p.value)
    base?.free()
  }
  freeValues(new Set(overlays.values()))
  for (const t of [...Object.values(shared), ...constants.values()]) free(t)
  constants.clear()
}
