/**
 * What an architecture has to say about itself: its parameters, its layers and its forward pass, given a config.
 * From this the same code loads, initialises and saves every model. Knows no files and no particular architecture: those are values that are passed.
 */
import type { Backend, ModelDefinition, ModelInput, Run, Site, Tensor, Tokenizer, Weight } from "@peftjs/core"
import { PeftError } from "@peftjs/core"
import { makeCache } from "./cache.ts"
import type { Config } from "./config.ts"

/** A parameter as the files spell it. */
export interface ParamSpec {
  /** [n] or [out, in]. */
  readonly shape: readonly [number] | readonly [number, number]
  /** Its random start: N(0, initializer_range²), ones or zeros. */
  readonly init: "normal" | "ones" | "zeros"
  /** A row that starts at zero: the padding token of an embedding. */
  readonly zeroRow?: number
  /** Standard deviation of "normal", where it is not the blueprint's. */
  readonly std?: number
  /** Files hold it turned round, [in, out]. */
  readonly fanInFanOut?: true
}

/** A layer before its weight is there. */
export type SiteSpec = Omit<Site, "base">

/** One model as its config describes it. */
export interface Blueprint {
  /** Path → shape and start, in the order of the layers. */
  readonly params: ReadonlyMap<string, ParamSpec>
  readonly sites: readonly SiteSpec[]
  /** Path of the site that makes logits. */
  readonly head: string
  /** Names that files may hold besides: buffers of old releases, a copy of a tied head. */
  readonly ignored: RegExp
  /** Standard deviation of "normal". */
  readonly std: number
  /** The part of the names that files of the bare model, without its head, leave out: "transformer.". */
  readonly prefix?: string
  hidden(input: ModelInput, run: Run): Tensor
}

/** A family of models: how a config becomes a blueprint. */
export interface Architecture {
  /** "model_type" of config.json. */
  readonly modelType: string
  /** Throws E_CONFIG naming the key that is missing, of the wrong kind or not supported. */
  blueprint(config: Config): Blueprint
}

/** The architecture a config asks for. Throws E_MODEL naming what was asked for and what there is. */
export function architectureOf(config: Config, known: readonly Architecture[]): Architecture {
  const modelType = config.text("model_type")
  const found = known.find((a) => a.modelType === modelType)
  if (found) return found
  const names = known.map((a) => `"${a.modelType}"`).join(", ")
  throw new PeftError(
    "E_MODEL",
    `[models] model_type "${modelType}" is not known; known are ${names}; pass others as "architectures"`,
  )
}

export interface ModelParts {
  readonly backend: Backend
  readonly config: Config
  readonly name: string
  readonly params: ReadonlyMap<string, Tensor | Weight>
  readonly tokenizer?: Tokenizer | undefined
}

/** A blueprint with its parameters in place. */
export function defineModel(
  blueprint: Blueprint,
  { backend, config, name, params, tokenizer }: ModelParts,
): ModelDefinition {
  const sites = blueprint.sites.map((site): [string, Site] => [
    site.path,
    { ...site, base: params.get(site.param) as Weight },
  ])
  return {
    backend,
    config: config.values,
    name,
    sites: new Map(sites),
    params,
    head: blueprint.head,
    ...(tokenizer ? { tokenizer } : {}),
    hidden: blueprint.hidden,
    makeCache,
  }
}
