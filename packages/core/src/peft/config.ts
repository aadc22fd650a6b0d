/** adapter_config.json: what is common to all methods, and the rules for keys (reference: peft config.py and tuners_utils.py). */
import { PeftError } from "../errors.ts"
import { parseJson } from "../json.ts"
import type { AdapterFormat, PeftConfig } from "../method.ts"
import type { OverlayOptions } from "../overlays.ts"
import type { Targets } from "../targets.ts"

export const configFile = "adapter_config.json"
export const weightsFile = "adapter_model.safetensors"
/** Stands before every module path in the file. */
export const keyPrefix = "base_model.model."
/** Stands before the name of a tensor that all sites share. */
export const sharedPrefix = "base_model."
/** Modules whose own weight PEFT saves beside an adapter that targets them. */
export const savedWithBase: readonly string[] = ["embed_tokens", "lm_head"]

/** Keys of every config, with PEFT's defaults. */
const common: PeftConfig = {
  auto_mapping: null,
  base_model_name_or_path: null,
  exclude_modules: null,
  inference_mode: true,
  layers_pattern: null,
  layers_to_transform: null,
  modules_to_save: null,
  peft_type: null,
  peft_version: null,
  revision: null,
  target_modules: null,
  task_type: null,
}
/** Those that not every type has in PEFT, which warns where they are too many: written for the types that name them among their defaults. */
const ofSomeTypes: readonly string[] = ["layers_pattern", "layers_to_transform"]
/** What an adapter trains beside its method. Core understands these for every method; PEFT writes them for some. */
const beside: PeftConfig = {
  bias: "none",
  ensure_weight_tying: false,
  modules_to_save: null,
  trainable_token_indices: null,
}

/** The PEFT release whose files these are equal to. */
const peftVersion = "0.21.2"

/** Parses a config. Throws E_JSON naming the line, E_CONFIG when it is no object or names no peft_type. */
export function parseConfig(text: string, file: string): PeftConfig {
  if (text.startsWith("version https://git-lfs")) {
    throw new PeftError(
      "E_CONFIG",
      `[core] ${file} is a Git LFS pointer, not the file itself; fetch it with git lfs pull`,
    )
  }
  const value = parseJson(text, file)
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new PeftError("E_CONFIG", `[core] ${file} must hold a JSON object`)
  }
  const config = value as PeftConfig
  if (typeof config.peft_type !== "string") {
    throw new PeftError("E_CONFIG", `[core] ${file} has no "peft_type": ${otherProgram(config)}`)
  }
  return config
}

/** Which other program's adapter_config.json it may be. */
function otherProgram(config: PeftConfig): string {
  if ("lora_parameters" in config || "fine_tune_type" in config || "adapter_path" in config)
    return "it looks like an adapter of MLX-LM, whose files are others; convert it to PEFT's format"
  if ("model_class" in config && "config" in config)
    return "it looks like one of the AdapterHub library, whose adapters are others; there is nothing to convert"
  return "is it an adapter made by Hugging Face PEFT?"
}

/** Refuses keys that PEFT knows, that change what the adapter computes, and that are not supported here. Throws E_CONFIG_UNSUPPORTED. */
export function checkSupported(config: PeftConfig, format: AdapterFormat, file: string): void {
  const defaults: PeftConfig = { ...common, ...format.defaults }
  const supported = new Set([...Object.keys(common), ...Object.keys(beside), ...format.supported])
  for (const [key, value] of Object.entries(config)) {
    if (!(key in defaults) || supported.has(key) || isDefault(value, defaults[key])) continue
    throw new PeftError(
      "E_CONFIG_UNSUPPORTED",
      `[core] ${file}: "${key}": ${JSON.stringify(value)} is not supported for ${format.peftType}; only ${JSON.stringify(defaults[key])} is`,
    )
  }
}

function isDefault(value: unknown, otherwise: unknown): boolean {
  const empty = (v: unknown): boolean => v == null || (typeof v === "object" && Object.keys(v).length === 0)
  return empty(value) ? true : JSON.stringify(value) === JSON.stringify(otherwise)
}

/** What a loaded config targets. Throws E_CONFIG. */
export function targetsOf(config: PeftConfig, file: string): Targets {
  const words = (key: string): readonly string[] | string | undefined => {
    const value = config[key]
    if (value == null) return undefined
    if (typeof value === "string" || (Array.isArray(value) && value.every((v) => typeof v === "string"))) return value
    throw new PeftError(
      "E_CONFIG",
      `[core] ${file}: "${key}" must be a string or a list of strings, not ${JSON.stringify(value)}`,
    )
  }
  const targetModules = words("target_modules")
  const excludeModules = words("exclude_modules")
  const layersPattern = words("layers_pattern")
  const layers = config.layers_to_transform
  if (layers != null && ![layers].flat().every((n) => Number.isInteger(n))) {
    throw new PeftError(
      "E_CONFIG",
      `[core] ${file}: "layers_to_transform" must be a layer or a list of layers, not ${JSON.stringify(layers)}`,
    )
  }
  return {
    ...(targetModules === undefined ? {} : { targetModules }),
    ...(excludeModules === undefined ? {} : { excludeModules }),
    ...(layersPattern === undefined || layersPattern.length === 0 ? {} : { layersPattern }),
    ...(layers == null ? {} : { layersToTransform: layers as number | number[] }),
  }
}

/** What a loaded config trains beside its method. Throws E_CONFIG. */
export function overlaysOf(config: PeftConfig, file: string): OverlayOptions {
  const read = <T>(key: string, wanted: string, fits: (value: unknown) => boolean): T | undefined => {
    const value = config[key]
    if (value == null) return undefined
    if (fits(value)) return value as T
    throw new PeftError("E_CONFIG", `[core] ${file}: "${key}" must be ${wanted}, not ${JSON.stringify(value)}`)
  }
  const listOf = (type: "string" | "number", value: unknown): boolean =>
    Array.isArray(value) && value.every((v) => typeof v === type)
  const bias = read<string>("bias", "a string", (v) => typeof v === "string")
  const modulesToSave = read<string[]>("modules_to_save", "a list of strings", (v) => listOf("string", v))
  const trainableTokenIndices = read<number[] | Record<string, number[]>>(
    "trainable_token_indices",
    "a list of token ids, or lists by module",
    (v) => listOf("number", v) || (isTable(v) && Object.values(v).every((ids) => listOf("number", ids))),
  )
  const ensureWeightTying = read<boolean>("ensure_weight_tying", "true or false", (v) => typeof v === "boolean")
  return {
    ...(bias === undefined ? {} : { bias }),
    ...(modulesToSave === undefined ? {} : { modulesToSave }),
    ...(trainableTokenIndices === undefined ? {} : { trainableTokenIndices }),
    ...(ensureWeightTying === undefined ? {} : { ensureWeightTying }),
  }
}

const isTable = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Keys that the method's type has in PEFT, and those that say something. */
function besideKeys(format: AdapterFormat, options: OverlayOptions): PeftConfig {
  const given: PeftConfig = {
    bias: options.bias ?? beside.bias,
    ensure_weight_tying: options.ensureWeightTying ?? beside.ensure_weight_tying,
    modules_to_save: options.modulesToSave ?? beside.modules_to_save,
    trainable_token_indices: options.trainableTokenIndices ?? beside.trainable_token_indices,
  }
  return Object.fromEntries(
    Object.entries(given).filter(([key, value]) => key in format.defaults || !isDefault(value, beside[key])),
  )
}

/** A complete config for a new adapter; what the format gives as undefined is left out of the file. */
export function newConfig(
  format: AdapterFormat,
  own: PeftConfig,
  base: string,
  targets: readonly string[],
  options: OverlayOptions,
): PeftConfig {
  return {
    ...Object.fromEntries(Object.entries(common).filter(([key]) => !ofSomeTypes.includes(key))),
    peft_version: peftVersion,
    ...format.defaults,
    ...own,
    ...besideKeys(format, options),
    peft_type: format.peftType,
    task_type: "CAUSAL_LM",
    base_model_name_or_path: base,
    target_modules: targets,
  }
}

/** As PEFT writes it: indented by two, keys sorted. */
export function formatConfig(config: PeftConfig): string {
  const sorted = Object.keys(config).sort()
  return `${JSON.stringify(Object.fromEntries(sorted.map((key) => [key, config[key]])), null, 2)}\n`
}
