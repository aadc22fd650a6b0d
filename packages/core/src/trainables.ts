/** What training changes in a view, what a resumed run must find again, and full fine-tuning. */
import { engineOf, free, hold, noGrad, scope } from "./engine.ts"
import { isTensor, type Tensor } from "./tensor.ts"
import type { Model } from "./view.ts"
import { bindModel } from "./view.ts"
import { denseWeight, type Weight } from "./weight.ts"

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
  return parameters(model).filter(({ tensor }) => tensor.requiresGrad)
}

/** The trainable parameters and the frozen ones that methods keep between steps (running averages): what a run's state consists of. */
export function parameters(model: Model): Trainable[] {
  const { adapters, overlays } = model.view
  const prefix = (name: string): string => (adapters.length > 1 ? `${name}:` : "")
  const ofAdapters = adapters
    .filter((a) => a.enabled)
    .flatMap((a) =>
      [...a.sites].flatMap(([path, { params }]) =>
        Object.entries(params).map(([key, { value, group }]): Trainable => {
          const named = { name: `${prefix(a.name)}${path}.${key}`, tensor: value, decay: true }
          return group === undefined ? named : { ...named, group }
        }),
      ),
    )
  const ofOverlays = [...overlays].flatMap(([path, value]): Trainable[] => {
    if (isTensor(value)) return [{ name: path, tensor: value, decay: false }]
    const parts = value.parts.flatMap((p) => (p.tensor ? [p.tensor] : []))
    return parts.map((t, i) => ({ name: parts.length === 1 ? path : `${path}#${i}`, tensor: t, decay: true }))
  })
  return [...ofAdapters, ...ofOverlays]
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
