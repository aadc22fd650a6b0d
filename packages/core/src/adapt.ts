/** Attaching methods to a model and taking them off again. The model itself is never changed: adapting gives another view of it. */
import { engineOf, free, hold, noGrad, scope } from "./engine.ts"
import { PeftError } from "./errors.ts"
import { makeInit } from "./init.ts"
import type { AdapterMethod, Param } from "./method.ts"
import type { Site } from "./model.ts"
import type { Targets } from "./targets.ts"
import { matchTargets, requireMatches } from "./targets.ts"
import { isTensor, type Tensor } from "./tensor.ts"
import type { Adapter, Model, SiteState } from "./view.ts"
import { bindModel } from "./view.ts"
import { denseWeight, type Weight } from "./weight.ts"

export interface AdaptOptions extends Targets {
  /** Name of the adapter; "default" unless told otherwise. Several adapters on one model need different names. */
  readonly name?: string
  /** Seed of the initial values. */
  readonly seed?: number
}

/**
 * A view of the model with `method` over the sites that the targets select.
 * Throws E_TARGET when a target entry selects nothing, E_SITE_KIND when the method cannot adapt what is selected, E_ADAPTER_NAME when
 * the name is taken, and what the method throws.
 */
export function adapt(model: Model, method: AdapterMethod, options: AdaptOptions = {}): Model {
  const { name = "default", seed = 0 } = options
  const match = matchTargets(model, options)
  requireMatches(model, options, match)
  return attach(model, makeAdapter(model, method, match.sites, { name, seed }))
}

/** The adapter itself, initialised on the named sites; `attach` puts it on. Throws as `adapt` does. */
export function makeAdapter(
  model: Model,
  method: AdapterMethod,
  paths: readonly string[],
  options: { name: string; seed: number; loaded?: Readonly<Record<string, unknown>> },
): Adapter {
  const { name, seed, loaded } = options
  if (name === "" || /[/\\]/.test(name)) {
    throw new PeftError(
      "E_ADAPTER_NAME",
      `[core] an adapter cannot be called ${JSON.stringify(name)}; use a name without slashes`,
    )
  }
  if (model.view.adapters.some((a) => a.name === name)) {
    throw new PeftError("E_ADAPTER_NAME", `[core] the model already has an adapter called "${name}"; give another name`)
  }
  const sites = paths.map((path) => model.sites.get(path) as Site)
  const misfit = sites.find((site) => !method.sites.includes(site.kind))
  if (misfit) {
    throw new PeftError(
      "E_SITE_KIND",
      `[${method.name}] ${misfit.path} is of kind ${misfit.kind}; ${method.name} adapts ${method.sites.join(", ")}; exclude it`,
    )
  }
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
        const { params, base } = method.init({ site, shared, init: makeInit(model.backend, seed, site.path) })
        const held = Object.entries(params).map(([key, p]): [string, Param] => {
          const value = keep(p.value)
          value.requiresGrad = p.trainable
          return [key, { ...p, value }]
        })
        return [site.path, { params: Object.fromEntries(held), ...(base ? { base: keepWeight(base, keep) } : {}) }]
      })
      return {
        name,
        method,
        sites: new Map(states),
        shared,
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

// Dense parts made inside the scope outlive it; packed weights hold their own memory.
function keepWeight(weight: Weight, keep: (tensor: Tensor) => Tensor): Weight {
  const tensors = weight.parts.flatMap((p) => (p.tensor ? [keep(p.tensor)] : []))
  return tensors.length > 0 ? denseWeight(tensors, weight.source) : weight
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

/** Switches an adapter off: the model behaves as without it until `enable`. */
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
export function freeAdapter({ sites, shared, constants }: Adapter): void {
  for (const { params, base } of sites.values()) {
    for (const p of Object.values(params)) free(p.value)
    base?.free()
  }
  for (const t of [...Object.values(shared), ...constants.values()]) free(t)
  constants.clear()
}

/** A tensor that training changes. */
export interface Trainable {
  /** Path and name, unique in the model: "model.layers.0.self_attn.q_proj.A". */
  readonly name: string
  readonly tensor: Tensor
  readonly group?: string
  /** Whether weight decay applies: not to biases and norms of the base, as transformers' Trainer decides. */
  readonly decay: boolean
}

/** Everything trainable in a view: parameters of its enabled adapters, then its overlays. */
export function trainables(model: Model): Trainable[] {
  const several = model.view.adapters.length > 1
  const adapters = model.view.adapters
    .filter((a) => a.enabled)
    .flatMap((a) =>
      [...a.sites].flatMap(([path, { params }]) =>
        Object.entries(params)
          .filter(([, p]) => p.trainable)
          .map(([key, p]): Trainable => {
            const name = several ? `${a.name}:${path}.${key}` : `${path}.${key}`
            return { name, tensor: p.value, decay: true, ...(p.group === undefined ? {} : { group: p.group }) }
          }),
      ),
    )
  const overlays = [...model.view.overlays].flatMap(([path, value]): Trainable[] => {
    if (isTensor(value)) return value.requiresGrad ? [{ name: path, tensor: value, decay: false }] : []
    const parts = value.parts.flatMap((p) => (p.tensor?.requiresGrad ? [p.tensor] : []))
    return parts.map((t, i) => ({ name: parts.length === 1 ? path : `${path}#${i}`, tensor: t, decay: true }))
  })
  return [...adapters, ...overlays]
}

/**
 * Full fine-tuning: a view in which every parameter is a trainable f32 copy of the base's (or those `filter` accepts).
 * The base stays as it was; `detachOverlays` gives the memory back.
 */
export function unfreeze(model: Model, filter: (path: string) => boolean = () => true): Model {
  const engine = engineOf(model.backend)
  const overlays = new Map(model.view.overlays)
  for (const [path, value] of model.params) if (filter(path)) overlays.set(path, trainableCopy(engine.backend, value))
  return bindModel(model.definition, { ...model.view, overlays })
}

function trainableCopy(backend: Model["backend"], value: Tensor | Weight): Tensor | Weight {
  const engine = engineOf(backend)
  const copy = (make: () => Tensor): Tensor => {
    const held = noGrad(engine, () => scope(engine, () => hold(make())))
    held.requiresGrad = true
    return held
  }
  if (isTensor(value)) return copy(() => value.mul(1))
  const rows = Math.max(1, Math.floor(backend.supports.maxBufferBytes / (4 * value.shape[1])))
  const parts: Tensor[] = []
  for (let start = 0; start < value.shape[0]; start += rows) {
    const end = Math.min(value.shape[0], start + rows)
    parts.push(copy(() => value.rows({ start, end }).mul(1)))
  }
  return denseWeight(parts)
}

/** The view without overlays, whose memory is given back. */
export function detachOverlays(model: Model): Model {
  for (const value of model.view.overlays.values()) isTensor(value) ? free(value) : value.free()
  return bindModel(model.definition, { ...model.view, overlays: new Map() })
}
