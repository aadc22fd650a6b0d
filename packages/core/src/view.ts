/** A model as it is looked at: its adapters and the parameters that stand before the base's. Turns a definition into something that runs. */
import type { Engine } from "./engine.ts"
import { engineOf, hold, noGrad, scope, tensor } from "./engine.ts"
import { PeftError } from "./errors.ts"
import { call, input, scalar } from "./expr.ts"
import { makeInit } from "./init.ts"
import type { AdapterMethod, Context, Param, Params } from "./method.ts"
import type { ModelDefinition, ModelInput, Run, RunOptions, Site } from "./model.ts"
import { apply, checkpoint } from "./op.ts"
import { checkIds } from "./ops/array.ts"
import { gatherOp } from "./ops/linear.ts"
import { crossEntropy, linearCrossEntropy } from "./ops/loss.ts"
import { dropout } from "./ops/nn.ts"
import { keyOf } from "./random.ts"
import { concat, isTensor, map, type Tensor } from "./tensor.ts"
import type { Weight } from "./weight.ts"

/** What an adapter holds at one site. */
export interface SiteState {
  readonly params: Readonly<Record<string, Param>>
  /** Stands in for the site's base while the adapter is enabled. */
  readonly base?: Weight
}

/** A method attached to some sites of a model, under a name. */
export interface Adapter {
  readonly name: string
  readonly method: AdapterMethod
  readonly sites: ReadonlyMap<string, SiteState>
  readonly shared: Params
  /** adapter_config.json as it was loaded: its spelling and unknown keys are written back. */
  readonly loaded?: Readonly<Record<string, unknown>>
  readonly constants: Map<string, Tensor>
  enabled: boolean
}

export interface View {
  /** In the order they were attached; the last one is outermost. */
  readonly adapters: readonly Adapter[]
  /** Path → what stands before the base's parameter: full fine-tuning, biases, whole modules. */
  readonly overlays: ReadonlyMap<string, Tensor | Weight>
}

export interface Model extends ModelDefinition {
  readonly definition: ModelDefinition
  readonly view: View
  /** Logits [batch, tokens, vocab]. Throws E_TOKEN_ID, E_SHAPE. */
  forward(input: ModelInput, options?: RunOptions): Tensor
  /** Logits of the last token of each row: [batch, vocab]. */
  lastLogits(input: ModelInput, options?: RunOptions): Tensor
  /**
   * Negative log likelihood of every label that is not -100, in row-major order: label t is predicted from position t-1, so labels at
   * position 0 never count. `labels` is [batch, tokens]. Throws E_NO_LABELS when nothing counts.
   */
  losses(input: ModelInput, labels: Int32Array, options?: RunOptions): Tensor
}

const bare: View = { adapters: [], overlays: new Map() }

/** Makes a model of a definition, with adapters and overlays in place. */
export function bindModel(definition: ModelDefinition, view: View = bare): Model {
  const { backend, head } = definition
  const engine = engineOf(backend)
  const inScope = (body: () => Tensor): Tensor => (engine.scope ? body() : scope(engine, body))
  const states = (input: ModelInput, run: Run): Tensor => {
    checkInput(definition, input)
    return definition.hidden(input, run)
  }
  const rows = (input: ModelInput, run: Run, at: Int32Array): Tensor => {
    const hidden = states(input, run)
    const flat = hidden.reshape([-1, hidden.shape.at(-1) as number])
    return apply(gatherOp, [flat, tensor(backend, at, [at.length], "i32")], null)
  }
  return {
    ...definition,
    definition,
    view,
    forward: (input, options = {}) =>
      inScope(() => {
        const run = makeRun(definition, view, options)
        return run.linear(head, states(input, run))
      }),
    lastLogits: (input, options = {}) =>
      inScope(() => {
        const run = makeRun(definition, view, options)
        const at = Int32Array.from({ length: input.batch }, (_, b) => (b + 1) * input.tokens - 1)
        return run.linear(head, rows(input, run, at))
      }),
    losses: (input, labels, options = {}) =>
      inScope(() => {
        const run = makeRun(definition, view, options)
        const counted = countedLabels(labels, input.tokens)
        const ids = Int32Array.from(counted, (at) => labels[at] as number)
        checkIds(ids, (definition.sites.get(head) as Site).out)
        const x = rows(
          input,
          run,
          Int32Array.from(counted, (at) => at - 1),
        )
        return run.linearCrossEntropy(head, x, tensor(backend, ids, [ids.length], "i32"))
      }),
  }
}

/** Positions in row-major [batch, tokens] whose label counts: not -100, not the first of a row. Throws E_NO_LABELS. */
function countedLabels(labels: Int32Array, tokens: number): number[] {
  const counted: number[] = []
  labels.forEach((label, at) => {
    if (label !== -100 && at % tokens !== 0) counted.push(at)
  })
  if (counted.length > 0) return counted
  throw new PeftError(
    "E_NO_LABELS",
    "[core] every label is masked (-100 or the first of its row); there is nothing to learn from",
  )
}

function checkInput({ sites, head }: ModelDefinition, input: ModelInput): void {
  const { ids, batch, tokens, mask, positions, cache } = input
  const wrong = (what: string, got: number, want: string): PeftError =>
    new PeftError("E_SHAPE", `[core] ${what} has ${got} values; [batch, tokens] = [${batch}, ${tokens}] needs ${want}`)
  if (ids.length !== batch * tokens || ids.length === 0)
    throw wrong("ids", ids.length, `${batch * tokens}, at least one`)
  const seen = batch * (tokens + (cache?.length ?? 0))
  if (mask && mask.length !== seen) throw wrong("mask", mask.length, `${seen}`)
  if (positions && positions.length !== ids.length) throw wrong("positions", positions.length, `${ids.length}`)
  checkIds(ids, (sites.get(head) as Site).out)
}

/** Rows of hidden states whose logits exist at a time when the head is more than one product. */
const rowChunk = 256

function makeRun(definition: ModelDefinition, view: View, options: RunOptions): Run {
  const { backend, sites, params } = definition
  const engine = engineOf(backend)
  const training = options.training ?? false
  const lookup = (path: string): Tensor | Weight => {
    const value = view.overlays.get(path) ?? params.get(path)
    if (value) return value
    throw new PeftError("E_PARAM", `[core] the model has no parameter ${path}`)
  }
  const vector = (path: string): Tensor => {
    const value = lookup(path)
    if (isTensor(value)) return value
    throw new PeftError("E_PARAM", `[core] ${path} is a matrix where a vector is needed`)
  }
  const siteAt = (path: string): Site => {
    const site = sites.get(path)
    if (site) return site
    throw new PeftError("E_PARAM", `[core] the model has no layer ${path}`)
  }
  const active = (path: string): Adapter[] => view.adapters.filter((a) => a.enabled && a.sites.has(path))
  const weightOf = (site: Site): Weight => {
    const replaced = active(site.path).findLast((a) => a.sites.get(site.path)?.base)
    return replaced?.sites.get(site.path)?.base ?? (lookup(site.param) as Weight)
  }
  const fold = (
    site: Site,
    base: (x: Tensor) => Tensor,
    bias: Tensor | undefined,
    firstRow = 0,
  ): ((x: Tensor) => Tensor) =>
    active(site.path).reduce<(x: Tensor) => Tensor>((next, adapter) => {
      const context = makeContext(engine, adapter, site, bias, options, firstRow)
      const values = valuesOf(adapter.sites.get(site.path) as SiteState)
      return (x) => adapter.method.forward(x, next, values, context)
    }, base)
  // Pieces of one input are told apart by their first row, so that each draws masks of its own.
  const linear = (path: string, x: Tensor, firstRow = 0): Tensor => {
    const site = siteAt(path)
    const bias = site.bias === undefined ? undefined : vector(site.bias)
    const weight = weightOf(site)
    const base = (input: Tensor): Tensor => (bias ? weight.matmul(input).add(bias) : weight.matmul(input))
    return scope(engine, () => fold(site, base, bias, firstRow)(x))
  }
  const block = (body: () => Tensor): Tensor =>
    options.gradientCheckpointing ? checkpoint(engine, body) : scope(engine, body)
  return {
    backend,
    training,
    tensor: vector,
    linear: (path, x) => linear(path, x),
    embedding(path, ids) {
      const site = siteAt(path)
      const weight = weightOf(site)
      return scope(engine, () => fold(site, (x) => lookUp(weight, x, site.paddingId), undefined)(ids))
    },
    linearCrossEntropy(path, x, labels) {
      const site = siteAt(path)
      if (active(path).length === 0 && site.bias === undefined) return linearCrossEntropy(x, weightOf(site), labels)
      const n = x.shape[0] as number
      const step = Math.max(1, Math.min(rowChunk, Math.floor(backend.supports.maxBufferBytes / (4 * site.out))))
      const pieces: Tensor[] = []
      for (let at = 0; at < n; at += step) {
        const end = Math.min(n, at + step)
        const logits = (): Tensor => linear(path, x.slice(0, at, end), at)
        pieces.push(checkpoint(engine, () => crossEntropy(logits(), labels.slice(0, at, end))))
      }
      return concat(pieces, 0)
    },
    block,
  }
}

const unlessPadding = call("select", call("eq", input(1), scalar(0)), input(2), input(0))

/** Rows of a table, through which no gradient reaches the padding's row. */
function lookUp(weight: Weight, ids: Tensor, paddingId: number | undefined): Tensor {
  const rows = weight.rows(ids)
  if (paddingId === undefined || !rows.requiresGrad) return rows
  return map(unlessPadding, [rows, ids.reshape([...ids.shape, 1]), rows.detach()], { scalars: [paddingId] })
}

function makeContext(
  engine: Engine,
  adapter: Adapter,
  site: Site,
  bias: Tensor | undefined,
  options: RunOptions,
  firstRow: number,
): Context {
  const { training = false, seed = 0, step = 0, microBatch = 0 } = options
  let stream = 0
  return {
    site,
    shared: adapter.shared,
    training,
    bias,
    dropout(x, p) {
      if (!training || p === 0) return x
      stream++
      return dropout(x, p, keyOf(seed, step, microBatch, `${adapter.name}.${site.path}`, stream, firstRow))
    },
    constant(key, make) {
      const known = adapter.constants.get(key)
      if (known) return known
      const made = noGrad(engine, () => scope(engine, () => hold(make(makeInit(engine.backend, seed, key)))))
      adapter.constants.set(key, made)
      return made
    },
  }
}

function valuesOf(state: SiteState): Params {
  return Object.fromEntries(Object.entries(state.params).map(([name, p]) => [name, p.value]))
}
