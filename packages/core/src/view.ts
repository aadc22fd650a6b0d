/** A model as it is looked at: its adapters and the parameters that stand before the base's. Turns a definition into something that runs. */
import { engineOf, scope, tensor } from "./engine.ts"
import { PeftError } from "./errors.ts"
import type { AdapterMethod, Param, Params } from "./method.ts"
import type { ModelDefinition, ModelInput, Run, RunOptions, Site } from "./model.ts"
import { apply } from "./op.ts"
import { checkIds } from "./ops/array.ts"
import { gatherOp } from "./ops/linear.ts"
import type { OverlayOptions, Overlays } from "./overlays.ts"
import { makeRun } from "./run.ts"
import { isTensor, type Tensor } from "./tensor.ts"
import type { Weight } from "./weight.ts"
import { replaceRows } from "./weight-rows.ts"

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
  /** Stands before the model's parameters while the adapter is enabled: biases, whole modules, rows of tokens. */
  readonly overlays: Overlays
  /** What `overlays` were made from. */
  readonly overlayOptions: OverlayOptions
  /** adapter_config.json as it was loaded: its spelling and unknown keys are written back. */
  readonly loaded?: Readonly<Record<string, unknown>>
  readonly constants: Map<string, Tensor>
  enabled: boolean
}

export interface View {
  /** In the order they were attached; the last one is outermost. */
  readonly adapters: readonly Adapter[]
  /** Path → what stands before the base's parameter: full fine-tuning. */
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

/** The path under which overlays of adapters know a site's weight: a tied head's is its own, so that it can be parted from its embedding. */
export function parameterOf(site: Site): string {
  return site.tiedTo === undefined ? site.param : `${site.path}.weight`
}

/** The weight of a site as a view has it: the model's own or an overlay, then what enabled adapters put before it, the last one on top. */
export function weightAt(definition: ModelDefinition, view: View, site: Site): Weight {
  let value = view.overlays.get(site.param) ?? definition.params.get(site.param)
  for (const { enabled, sites, overlays } of view.adapters) {
    if (!enabled) continue
    value = sites.get(site.path)?.base ?? value
    const above = overlays.get(parameterOf(site))
    if (!above || isTensor(above) || !value || isTensor(value)) continue
    value = above.replaced ? replaceRows(value, above.replaced) : above
  }
  if (value && !isTensor(value)) return value
  throw new PeftError("E_PARAM", `[core] the model has no matrix ${site.param}`)
}

/** A vector parameter as a view has it. */
export function vectorAt(definition: ModelDefinition, view: View, path: string): Tensor {
  const above = view.adapters.findLast((a) => a.enabled && a.overlays.has(path))
  const value = above?.overlays.get(path) ?? view.overlays.get(path) ?? definition.params.get(path)
  if (value && isTensor(value)) return value
  throw new PeftError("E_PARAM", `[core] the model has no vector ${path}`)
}

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
