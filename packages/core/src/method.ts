/**
 * The contract of a fine-tuning method.
 * A method sees shapes and tensors at one site. It must not know backends, storage formats, models, memory, or other methods.
 */

import type { Shape } from "./dtype.ts"
import type { Site, SiteKind } from "./model.ts"
import type { Tensor } from "./tensor.ts"
import type { Weight } from "./weight.ts"

/** A tensor of an adapter. */
export interface Param {
  readonly value: Tensor
  readonly trainable: boolean
  /** Written to the checkpoint. */
  readonly saved: boolean
  /** Optimizer group with options of its own, such as LoRA+'s "lora_B". */
  readonly group?: string
}

export type Params = Readonly<Record<string, Tensor>>

/** Makes tensors. Random ones are drawn on the host under a key of (seed, site, name), so they are equal on every backend. */
export interface Init {
  zeros(shape: Shape): Tensor
  ones(shape: Shape): Tensor
  tensor(values: Float32Array, shape: Shape): Tensor
  /** U[low, high). */
  uniform(name: string, shape: Shape, low: number, high: number): Tensor
  /** N(0, std²). */
  normal(name: string, shape: Shape, std: number): Tensor
}

export interface InitContext {
  readonly site: Site
  /** The layer's weight as it is now: the site's own, or what stands in for it. */
  readonly base: Weight
  readonly shared: Params
  readonly init: Init
  /** What `prepare` has found for the site; empty without it. */
  readonly start: Prepared["start"]
}

/** What `prepare` sees of a layer: its values on the host, where decompositions are made. */
export interface PrepareContext {
  readonly site: Site
  /** The layer's weight as it is now, [out, in] (an embedding's [ids, width]), row by row. */
  readonly values: Float32Array
  /** Values as they come back from being stored as the layer's are: LoftQ looks at what that loses, and tries again. */
  stored(values: Float32Array): Promise<Float32Array>
}

/** A start that depends on the base's values. */
export interface Prepared {
  /** What `init` makes parameters of, by name. */
  readonly start: Readonly<Record<string, Float32Array>>
  /** Stands in for the layer's values while the adapter is enabled (PiSSA, OLoRA, LoftQ); core stores it as the layer is stored. */
  readonly residual?: Float32Array
}

/** What a method sees during a forward pass. */
export interface Context {
  readonly site: Site
  /** The layer's weight as it is now: the site's own, or what stands in for it. */
  readonly base: Weight
  readonly shared: Params
  readonly training: boolean
  /** The layer's bias, which `next` adds. */
  readonly bias: Tensor | undefined
  /** Inverted dropout, only in training; a recomputed block draws the same mask. */
  dropout(x: Tensor, p: number): Tensor
  /** Made once per adapter and key, then kept: cos and sin tables, norms of the base. No gradient flows into it. */
  constant(key: string, make: (init: Init) => Tensor): Tensor
}

/** What `afterStep` sees: every parameter of the method by site path and name, and the gradients of the trainable ones. */
export interface StepState {
  /** Optimizer steps done before this one. */
  readonly step: number
  /** Gradients are those before clipping; the optimizer used them times this. */
  readonly gradScale: number
  readonly sites: ReadonlyMap<string, { readonly params: Params; readonly gradients: Params }>
  /** Replaces the values of a parameter. */
  set(param: Tensor, value: Tensor): void
}

export interface AdapterMethod {
  readonly kind: "site"
  readonly specVersion: 1
  /** "lora". */
  readonly name: string
  /** Options as given, complete with defaults; survives JSON. */
  readonly config: Readonly<Record<string, unknown>>
  /** Kinds of sites it can adapt. */
  readonly sites: readonly SiteKind[]
  /** Whether its effect is a linear map of x, which can be merged into the base. */
  readonly mergeable: boolean
  /** For AdamW, where the method knows better than the trainer's default. */
  readonly learningRate?: number
  /** How it is written to disk; without it the adapter can be trained but not saved. */
  readonly format?: AdapterFormat
  /** Frozen tensors shared by all sites (VeRA's projections). */
  setup?(sites: readonly Site[], init: Init): Params
  /**
   * Before `init`, where the start depends on the base's values: reading them takes a wait, so such a method is put on by `adaptAsync`.
   * The same arguments must give the same result: who loads the adapter prepares again.
   */
  prepare?(context: PrepareContext): Prepared | Promise<Prepared>
  /** The parameters at one site. Throws E_RANK and the like. */
  init(context: InitContext): { readonly params: Readonly<Record<string, Param>> }
  /** The layer with the method over it; `next` is everything below: the base with its bias, or the adapter under this one. */
  forward(x: Tensor, next: (x: Tensor) => Tensor, params: Params, context: Context): Tensor
  /** Added to the loss of a step once per site, of `count` sites (AdaLoRA's orthogonality). */
  penalty?(params: Params, context: { readonly site: Site; readonly shared: Params; readonly count: number }): Tensor
  /** After the optimizer (AdaLoRA's budget): what it sets stays until the next step. */
  afterStep?(state: StepState): void | Promise<void>
  /** The method of the next cycle after a merge and restart (ReMoRA). */
  restart?(cycle: number): AdapterMethod
}

export type PeftConfig = Readonly<Record<string, unknown>>

/** A method's adapter_config.json and tensor names. */
export interface AdapterFormat {
  /** "LORA". */
  readonly peftType: string
  /** Every key PEFT writes for this type beyond the common ones, with PEFT's default. */
  readonly defaults: PeftConfig
  /** Keys of `defaults` that `read` understands; the others are refused unless they hold their default. */
  readonly supported: readonly string[]
  /** The method a config describes. Throws E_CONFIG. */
  read(config: PeftConfig): AdapterMethod
  /** The method's own keys of adapter_config.json, for the layers it sits on. */
  write(method: AdapterMethod, sites: readonly Site[]): PeftConfig
  /** What follows the module path in the file: "lora_A.weight". */
  tensorName(param: string, kind: SiteKind): string
  /** What a tensor of `setup` is called, where those are saved: "vera_A". */
  sharedName?(name: string): string
  /** Further names under which a parameter's values stand in the file. They may be missing there, and must not differ. */
  copies?(param: string, kind: SiteKind): readonly string[]
  /** How the files are loaded, for their README.md, where Hugging Face PEFT does not: Markdown after "An adapter for MODEL, ". */
  readonly usage?: string
  /** Other layouts of the method's checkpoints, such as an older program's: read like this one, written when asked for. */
  readonly alternatives?: readonly AdapterFormat[]
  /** Whether a config of this peft_type is this method's, where several share one type. A claim stands before a format without `claims`. */
  claims?(config: PeftConfig): boolean
}

/** A plugin's export: options to method, with its format for loading. */
export type MethodFactory<Options extends object = object> = ((options?: Options) => AdapterMethod) & {
  readonly format?: AdapterFormat
}

/** A trainable, saved parameter unless told otherwise. */
export function param(value: Tensor, options: { trainable?: boolean; saved?: boolean; group?: string } = {}): Param {
  const { trainable = true, saved = true, group } = options
  return { value, trainable, saved, ...(group === undefined ? {} : { group }) }
}
