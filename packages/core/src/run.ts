/**
 * One forward pass: what a model's layers are built from. Adapters fold over their site, overlays stand before parameters, blocks are
 * recomputed. Knows neither models nor methods, only their contracts.
 */
import type { Engine } from "./engine.ts"
import { engineOf, hold, noGrad, scope } from "./engine.ts"
import { PeftError } from "./errors.ts"
import { makeInit } from "./init.ts"
import type { Context, Params } from "./method.ts"
import type { ModelDefinition, Run, RunOptions, Site } from "./model.ts"
import { checkpoint } from "./op.ts"
import { crossEntropy, linearCrossEntropy } from "./ops/loss.ts"
import { dropout } from "./ops/nn.ts"
import { keyOf } from "./random.ts"
import { concat, type Tensor } from "./tensor.ts"
import type { Adapter, SiteState, View } from "./view.ts"
import { vectorAt, weightAt } from "./view.ts"
import { lookUp, ownTensors, type Weight } from "./weight.ts"

/** A layer during one pass. */
export interface Layer {
  readonly site: Site
  readonly base: Weight
  readonly bias: Tensor | undefined
  /** Pieces of one input are told apart by their first row, so that each draws masks of its own. */
  readonly firstRow: number
}

/** Rows of hidden states whose logits exist at a time when the head is more than one product. */
const rowChunk = 256

/** The run of one pass over a view. */
export function makeRun(definition: ModelDefinition, view: View, options: RunOptions): Run {
  const { backend, sites } = definition
  const engine = engineOf(backend)
  const training = options.training ?? false
  const siteAt = (path: string): Site => {
    const site = sites.get(path)
    if (site) return site
    throw new PeftError("E_PARAM", `[core] the model has no layer ${path}`)
  }
  const layer = (path: string, x: Tensor, firstRow = 0): Tensor =>
    foldAdapters(view, layerAt(definition, view, siteAt(path), firstRow), options, x)
  const block = (body: () => Tensor): Tensor =>
    options.gradientCheckpointing ? checkpoint(engine, body) : scope(engine, body)
  return {
    backend,
    training,
    tensor: (path) => vectorAt(definition, view, path),
    linear: (path, x) => layer(path, x),
    embedding: (path, ids) => layer(path, ids),
    linearCrossEntropy(path, x, labels) {
      const site = siteAt(path)
      const weight = weightAt(definition, view, site)
      if (activeAt(view, path).length === 0 && site.bias === undefined && !weight.replaced)
        return linearCrossEntropy(x, weight, labels)
      const n = x.shape[0] as number
      const step = Math.max(1, Math.min(rowChunk, Math.floor(backend.supports.maxBufferBytes / (4 * site.out))))
      const pieces: Tensor[] = []
      for (let at = 0; at < n; at += step) {
        const end = Math.min(n, at + step)
        const logits = (): Tensor => layer(path, x.slice(0, at, end), at)
        pieces.push(checkpoint(engine, () => crossEntropy(logits(), labels.slice(0, at, end))))
      }
      return concat(pieces, 0)
    },
    block,
  }
}

function activeAt(view: View, path: string): Adapter[] {
  return view.adapters.filter((a) => a.enabled && a.sites.has(path))
}

/** A site as a view has it. */
export function layerAt(definition: ModelDefinition, view: View, site: Site, firstRow = 0): Layer {
  const bias = site.bias === undefined ? undefined : vectorAt(definition, view, site.bias)
  return { site, base: weightAt(definition, view, site), bias, firstRow }
}

/** A layer without adapters: the product with its bias, or rows by ids. */
function bottomOf({ site, base, bias }: Layer): (x: Tensor) => Tensor {
  if (site.kind === "embedding") return (ids) => lookUp(base, ids, site.paddingId)
  return (x) => (bias ? base.matmul(x).add(bias) : base.matmul(x))
}

/** A layer with the view's enabled adapters over it: each one's `next` is everything below, `bottom` the layer itself. */
export function foldAdapters(
  view: View,
  layer: Layer,
  options: RunOptions,
  x: Tensor,
  bottom: (x: Tensor) => Tensor = bottomOf(layer),
): Tensor {
  const { path } = layer.site
  return scope(x.engine, () =>
    activeAt(view, path).reduce<(x: Tensor) => Tensor>((next, adapter) => {
      const context = makeContext(x.engine, adapter, layer, options)
      const values = valuesOf(adapter.sites.get(path) as SiteState)
      return (below) => adapter.method.forward(below, next, values, context)
    }, bottom)(x),
  )
}

function makeContext(
  engine: Engine,
  adapter: Adapter,
  { site, base, bias, firstRow }: Layer,
  options: RunOptions,
): Context {
  const { training = false, seed = 0, step = 0, microBatch = 0, part } = options
  let stream = 0
  return {
    site,
    base,
    shared: adapter.shared,
    training,
    bias,
    dropout(x, p) {
      if (!training || p === 0) return x
      stream++
      const key = keyOf(seed, step, microBatch, `${adapter.name}.${site.path}`, stream, firstRow)
      return dropout(x, p, key, x.shape.length > 2 ? part : undefined)
    },
    constant(key, make) {
      const fresh = (): Tensor => scope(engine, () => make(makeInit(engine.backend, seed, key)))
      // What training moves is not constant.
      if (ownTensors(base).some((t) => t.requiresGrad)) return noGrad(engine, fresh)
      const known = adapter.constants.get(key)
      if (known) return known
      const made = noGrad(engine, () => scope(engine, () => hold(fresh())))
      adapter.constants.set(key, made)
      return made
    },
  }
}

function valuesOf(state: SiteState): Params {
  return Object.fromEntries(Object.entries(state.params).map(([name, p]) => [name, p.value]))
}
