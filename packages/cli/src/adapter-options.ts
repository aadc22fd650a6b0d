/** Where an adapter goes and what is trained beside it, from the words of the command line. Must not know methods or models. */
import { type AdaptOptions, PeftError, type Targets } from "@peftjs/core"
import type { Command } from "commander"

/** As typed; undefined where not given. */
export interface AdapterFlags {
  readonly targetModules?: string
  readonly excludeModules?: string
  readonly layersToTransform?: string
  readonly layersPattern?: string
  readonly bias?: string
  readonly modulesToSave?: string
  readonly trainableTokenIndices?: string
  readonly ensureWeightTying?: boolean
}

/** Where no targets are given. */
export const allLinear = "all-linear"

export function adapterOptions(command: Command): Command {
  return command
    .option(
      "--target-modules <targets>",
      "all-linear, names separated by commas, or a regular expression (default: all-linear)",
    )
    .option("--exclude-modules <targets>", "names separated by commas, or a regular expression, of what is left out")
    .option("--layers-to-transform <n,…>", "only these layers, by their number")
    .option("--layers-pattern <name,…>", "name of the list that holds the layers, where it is not the first")
    .option("--bias <which>", "biases trained as well: none, all, or lora_only (METHOD_only)")
    .option("--modules-to-save <name,…>", "modules trained whole, by the end of their path: lm_head")
    .option(
      "--trainable-token-indices <ids>",
      'tokens whose rows are trained: 5,9 or {"embed_tokens":[5],"lm_head":[9]}',
    )
    .option("--ensure-weight-tying", "what is trained of a tied embedding stays tied to the head")
}

const list = (text: string): string[] => text.split(",").map((item) => item.trim())

/** `all-linear`, names separated by commas, or else a regular expression over whole module paths. */
export function parseTargets(text: string): Targets {
  return { targetModules: text.toLowerCase() === allLinear ? text : namesOrPattern(text) }
}

function namesOrPattern(text: string): string | string[] {
  const names = list(text)
  return names.every((name) => /^[\w.-]+$/.test(name)) ? names : text
}

/** What `adapt` is told. Throws E_OPTION. */
export function adaptOptions(flags: AdapterFlags): Omit<AdaptOptions, "name" | "seed"> {
  const { excludeModules, layersToTransform, layersPattern, bias, modulesToSave, trainableTokenIndices } = flags
  return {
    ...parseTargets(flags.targetModules ?? allLinear),
    ...(excludeModules === undefined ? {} : { excludeModules: namesOrPattern(excludeModules) }),
    ...(layersToTransform === undefined
      ? {}
      : { layersToTransform: numbers("--layers-to-transform", list(layersToTransform)) }),
    ...(layersPattern === undefined ? {} : { layersPattern: list(layersPattern) }),
    ...(bias === undefined ? {} : { bias }),
    ...(modulesToSave === undefined ? {} : { modulesToSave: list(modulesToSave) }),
    ...(trainableTokenIndices === undefined ? {} : { trainableTokenIndices: tokens(trainableTokenIndices) }),
    ...(flags.ensureWeightTying === undefined ? {} : { ensureWeightTying: flags.ensureWeightTying }),
  }
}

function tokens(text: string): number[] | Record<string, number[]> {
  const flag = "--trainable-token-indices"
  if (!text.trim().startsWith("{")) return numbers(flag, list(text))
  const table = parseTable(text)
  if (table) return Object.fromEntries(Object.entries(table).map(([module, ids]) => [module, numbers(flag, ids)]))
  throw new PeftError("E_OPTION", `[cli] ${flag} must be 5,9 or {"embed_tokens":[5],"lm_head":[9]}, not ${text}`)
}

function parseTable(text: string): Record<string, unknown[]> | undefined {
  try {
    const value = JSON.parse(text) as Record<string, unknown[]>
    return Object.values(value).every(Array.isArray) ? value : undefined
  } catch {
    return undefined
  }
}

function numbers(flag: string, values: readonly unknown[]): number[] {
  const found = values.map((value) => (typeof value === "string" && value === "" ? Number.NaN : Number(value)))
  if (found.every((n) => Number.isInteger(n) && n >= 0)) return found
  throw new PeftError("E_OPTION", `[cli] ${flag} must be whole numbers separated by commas, not ${values.join(",")}`)
}

/** The options that were given, as typed on the command line: for those that mean nothing where they were given. */
export function givenFlags(flags: AdapterFlags): string[] {
  const names = {
    ...{ targetModules: "target-modules", excludeModules: "exclude-modules", bias: "bias" },
    ...{ layersToTransform: "layers-to-transform", layersPattern: "layers-pattern", modulesToSave: "modules-to-save" },
    ...{ trainableTokenIndices: "trainable-token-indices", ensureWeightTying: "ensure-weight-tying" },
  } as const satisfies Record<keyof AdapterFlags, string>
  return Object.entries(names).flatMap(([key, name]) => (flags[key as keyof AdapterFlags] === undefined ? [] : [name]))
}
