/** What training changes in a view, what a resumed run must find again, and full fine-tuning. */
import { engineOf, hold, noGrad, scope } from "./engine.ts"
import { trainedOverlays } from "./overlays.ts"
import { isTensor, type Tensor } from "./tensor.ts"
import type { Model } from "./view.ts"
import { bindModel } from "./view.ts"
import { denseCopy, freeValues, ownTensors, type Weight } from "./weight.ts"

/** A tensor that training changes. */
export interface Trainable {
  /** Path and name, unique in the model: "model.layers.0.self_attn.q_proj.A". */
  readonly name: string
  readonly tensor: Tensor
  readonly group?: string
  /** Whether weight decay applies: not to biases and norms of the base, as transformers' Trainer decides. */
  readonly decay: boolean
}

/** Everything trainable in a view: parameters of its enabled adapters with what they train beside, then its overlays. */
export function trainables(model: Model): Trainable[] {
  return parameters(model).filter(({ tensor }) => tensor.requiresGrad)
}

/** The trainable parameters and the frozen ones that methods keep between steps (running averages): what a run's state consists of. */
export function parameters(model: Model): Trainable[] {
  const { adapters, overlays } = model.view
  const prefix = (name: string): string => (adapters.length > 1 ? `${name}:` : "")
  const ofAdapters = adapters
    .filter((a) => a.enabled)
    .flatMap((a) => {
      const own = [...a.sites].flatMap(([path, { params }]) =>
        Object.entries(params).map(([key, { value, group }]): Trainable => {
          const one = { name: `${prefix(a.name)}${path}.${key}`, tensor: value, decay: true }
          return group === undefined ? one : { ...one, group }
        }),
      )
      const beside = trainedOverlays(model, a).filter((o) => !o.again)
      return [...own, ...beside.flatMap((o) => named(`${prefix(a.name)}${o.name}`, o.tensors, o.matrix))]
    })
  const ofOverlays = [...overlays].flatMap(([path, value]): Trainable[] => {
    const found = isTensor(value) ? named(path, [value], false) : named(path, ownTensors(value), true)
    // The others are a base that was merged into: as lasting as the model's own.
    return found.filter(({ tensor }) => tensor.requiresGrad)
  })
  return [...ofAdapters, ...ofOverlays]
}

function named(name: string, parts: readonly Tensor[], decay: boolean): Trainable[] {
  return parts.map((tensor, i) => ({ name: parts.length === 1 ? name : `${name}#${i}`, tensor, decay }))
}

/**
 * Full fine-tuning: a view in which every parameter is a trainable f32 copy of the base's (or those `filter` accepts).
 * The base stays as it was; `detachOverlays` gives the memory back.
 */
export function unfreeze(model: Model, filter: (path: string) => boolean = () => true): Model {
  const engine = engineOf(model.backend)
  const overlays = new Map(model.view.overlays)
  for (const [path, own] of model.params) {
    if (filter(path)) overlays.set(path, trainableCopy(engine.backend, overlays.get(path) ?? own))
  }
  return bindModel(model.definition, { ...model.view, overlays })
}

function trainableCopy(backend: Model["backend"], value: Tensor | Weight): Tensor | Weight {
  const engine = engineOf(backend)
  const keep = (made: Tensor): Tensor => {
    const held = hold(made)
    held.requiresGrad = true
    return held
  }
  return noGrad(engine, () =>
    isTensor(value) ? scope(engine, () => keep(value.mul(1))) : denseCopy(backend, value, keep),
  )
}

/** The view without overlays, whose memory is given back. */
export function detachOverlays(model: Model): Model {
  freeValues(model.view.overlays.values())
  return bindModel(model.definition, { ...model.view, overlays: new Map() })
}
