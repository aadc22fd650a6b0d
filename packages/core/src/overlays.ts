/**
 * What an adapter trains beside its method: biases, whole modules, rows of tokens. Each stands before one parameter of the model while
 * the adapter is on. The same for every method, which never sees it; must not know files.
 */
import type { Shape } from "./dtype.ts"
import { tensor } from "./engine.ts"
import { PeftError } from "./errors.ts"
import type { Site } from "./model.ts"
import { checkIds } from "./ops/array.ts"
import { modulesAt } from "./targets.ts"
import { isTensor, type Tensor } from "./tensor.ts"
import type { Adapter, Model } from "./view.ts"
import { parameterOf, vectorAt, weightAt } from "./view.ts"
import { denseCopy, ownTensors, type Weight } from "./weight.ts"
import { replaceRows } from "./weight-rows.ts"

/** In PEFT's words (LoraConfig); every method has them. */
export interface OverlayOptions {
  /** Biases trained as well: "all" of the model's, or "<method>_only": those of the adapted layers. "none" by default. */
  readonly bias?: string
  /** Modules trained as a whole: every module whose path ends so, without regard to dots, as PEFT matches. They get no adapter. */
  readonly modulesToSave?: readonly string[]
  /** Tokens whose rows are trained: of the input embedding, or by the end of a module's path. A tied head follows its embedding. */
  readonly trainableTokenIndices?: readonly number[] | Readonly<Record<string, readonly number[]>>
  /** What is trained of a tied embedding stays tied, and so is its head; otherwise modulesToSave parts them. */
  readonly ensureWeightTying?: boolean
}

/** Parameter path → what stands before it. A tied head's own path is its site's, followed by ".weight". */
export type Overlays = ReadonlyMap<string, Tensor | Weight>

type Keep = (tensor: Tensor) => Tensor

/**
 * The overlays of a new adapter on the named sites, with the base's values. Throws E_OPTION (bias, contradictions), E_TOKEN_ID, and
 * with `strict` E_TARGET where a module is not there.
 */
export function makeOverlays(
  model: Model,
  method: string,
  sites: readonly Site[],
  options: OverlayOptions,
  keep: Keep,
  strict: boolean,
): Overlays {
  const overlays = new Map<string, Tensor | Weight>()
  const trained: Keep = (made) => {
    const kept = keep(made)
    kept.requiresGrad = true
    return kept
  }
  const copy = (path: string): Tensor | Weight => {
    const site = [...model.sites.values()].find((s) => parameterOf(s) === path)
    return site
      ? denseCopy(model.backend, weightAt(model.definition, model.view, site), trained)
      : trained(vectorAt(model.definition, model.view, path).mul(1))
  }
  for (const path of biasPaths(model, method, sites, options.bias ?? "none")) overlays.set(path, copy(path))
  for (const path of modulePaths(model, options, strict)) {
    const twin = options.ensureWeightTying ? tiedPaths(model, path).find((p) => overlays.has(p)) : undefined
    overlays.set(path, twin === undefined ? copy(path) : (overlays.get(twin) as Weight))
  }
  for (const [site, ids] of tokenSites(model, options, strict)) {
    const path = parameterOf(site)
    if (overlays.has(path)) {
      throw new PeftError(
        "E_OPTION",
        `[core] modules_to_save trains ${site.path} whole; leave it out of trainable_token_indices`,
      )
    }
    const twin = tiedRows(site, overlays)
    overlays.set(
      path,
      String(twin?.replaced?.ids) === String(ids) && twin ? twin : tokenRows(model, site, ids, keep, trained),
    )
  }
  for (const site of model.sites.values()) {
    const rows = tiedRows(site, overlays)
    if (rows && !overlays.has(parameterOf(site))) overlays.set(parameterOf(site), rows)
  }
  if (options.ensureWeightTying) refuseTiedTargets(model, sites)
  return overlays
}

function biasPaths(model: Model, method: string, sites: readonly Site[], bias: string): string[] {
  if (bias === "none") return []
  if (bias === "all") return [...model.params.keys()].filter((path) => path === "bias" || path.endsWith(".bias"))
  if (bias === `${method}_only`) return sites.flatMap((site) => site.bias ?? [])
  throw new PeftError("E_OPTION", `[core] bias = ${JSON.stringify(bias)} must be "none", "all" or "${method}_only"`)
}

/** Parameters of the modules that are trained whole. */
function modulePaths(model: Model, options: OverlayOptions, strict: boolean): Set<string> {
  const paths = new Set<string>()
  for (const entry of options.modulesToSave ?? []) {
    const modules = modulesAt(model, [entry])
    if (modules.length === 0 && strict) {
      throw new PeftError("E_TARGET", `[core] modulesToSave ${JSON.stringify(entry)} is no module of this model`)
    }
    const own = [...model.params.keys(), ...[...model.sites.values()].map(parameterOf)]
    for (const path of own) if (modules.some((module) => path.startsWith(`${module}.`))) paths.add(path)
  }
  const tied = options.ensureWeightTying ? [...paths].flatMap((path) => tiedPaths(model, path)) : []
  return new Set([...paths, ...tied])
}

/** Where else the model uses a parameter: the head of a tied embedding, and the other way round. */
function tiedPaths(model: Model, path: string): string[] {
  const sites = [...model.sites.values()]
  const site = sites.find((s) => parameterOf(s) === path)
  const group = site === undefined ? [] : sites.filter((s) => s.param === site.param)
  return group.map(parameterOf).filter((p) => p !== path)
}

function tokenSites(model: Model, options: OverlayOptions, strict: boolean): [Site, readonly number[]][] {
  const { trainableTokenIndices: given } = options
  if (given === undefined) return []
  const sites = [...model.sites.values()]
  if (isList(given)) return [[inputEmbedding(model), given]]
  const named = Object.entries(given).flatMap(([entry, ids]) => {
    const found = sites.filter((site) => site.path.endsWith(entry)).map((s): [Site, readonly number[]] => [s, ids])
    if (found.length > 0 || !strict) return found
    throw new PeftError("E_TARGET", `[core] trainableTokenIndices ${JSON.stringify(entry)} is no layer of this model`)
  })
  return named.sort(([a], [b]) => Number(a.tiedTo !== undefined) - Number(b.tiedTo !== undefined))
}

const isList = (value: object): value is readonly number[] => Array.isArray(value)

/** The embedding that turns ids into hidden states: the head's where they are tied, else the first as large as the vocabulary. */
function inputEmbedding(model: Model): Site {
  const head = model.sites.get(model.head) as Site
  const tables = [...model.sites.values()].filter((site) => site.kind === "embedding")
  const found =
    tables.find((site) => site.path === head.tiedTo) ?? tables.find((site) => site.in === head.out) ?? tables[0]
  if (found) return found
  throw new PeftError("E_TARGET", "[core] the model has no embedding whose tokens could be trained")
}

function tokenRows(model: Model, site: Site, ids: readonly number[], keep: Keep, trained: Keep): Weight {
  const { backend } = model
  const base = weightAt(model.definition, model.view, site)
  checkIds(ids, base.shape[0])
  if (ids.length === 0 || new Set(ids).size < ids.length) {
    throw new PeftError("E_OPTION", `[core] trainable_token_indices of ${site.path} must name tokens, each once`)
  }
  const slots = new Float32Array(base.shape[0])
  for (const [slot, id] of ids.entries()) slots[id] = slot + 1
  const at = keep(tensor(backend, Int32Array.from(ids), [ids.length], "i32"))
  const rows = trained(base.rows(at).mul(1))
  return replaceRows(base, { at, rows, slots: keep(tensor(backend, slots, [slots.length, 1])), ids: [...ids] })
}

/** The trained rows of the embedding that a tied head shares. */
function tiedRows(site: Site, overlays: Overlays): Weight | undefined {
  const source = site.tiedTo === undefined ? undefined : overlays.get(site.param)
  return source && !isTensor(source) && source.replaced ? source : undefined
}

function refuseTiedTargets(model: Model, sites: readonly Site[]): void {
  const tied = sites.find((site) => tiedPaths(model, parameterOf(site)).length > 0)
  if (!tied) return
  throw new PeftError(
    "E_OPTION",
    `[core] ensure_weight_tying is for modules_to_save and trainable_token_indices; an adapter on ${tied.path} stays its own, so leave one of them out`,
  )
}

/** One thing an adapter trains beside its method. */
export interface TrainedOverlay {
  /** As in the file, after "base_model.model.". */
  readonly name: string
  /** Consecutive rows, or the one vector. */
  readonly tensors: readonly Tensor[]
  /** Two names for one value: the head of a tied embedding, which is stored twice. */
  readonly again: boolean
  readonly matrix: boolean
}

/** The overlays of an adapter as they are stored (reference: peft save_and_load.py get_peft_model_state_dict). */
export function trainedOverlays(model: Model, { sites, overlays }: Adapter): TrainedOverlay[] {
  const seen = new Set<Tensor | Weight>()
  const adapted = new Map([...sites.keys()].map((path) => [model.sites.get(path)?.bias, `${path}.base_layer.bias`]))
  return [...overlays].flatMap(([path, value]): TrainedOverlay[] => {
    const again = seen.has(value)
    seen.add(value)
    if (isTensor(value)) return [{ name: adapted.get(path) ?? path, tensors: [value], again, matrix: false }]
    if (!value.replaced) return [{ name: path, tensors: ownTensors(value), again, matrix: true }]
    const name = `${path.replace(/\.weight$/, "")}.token_adapter.trainable_tokens_delta`
    return again ? [] : [{ name, tensors: ownTensors(value), again, matrix: true }]
  })
}

/** The shape of consecutive rows together. */
export function wholeShape(parts: readonly Tensor[]): Shape {
  const [first] = parts as [Tensor]
  if (parts.length === 1) return first.shape
  return [parts.reduce((n, part) => n + (part.shape[0] as number), 0), ...first.shape.slice(1)]
}
