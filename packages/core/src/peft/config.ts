/** adapter_config.json: what is common to all methods, and the rules for keys (reference: peft config.py and tuners_utils.py). */
import { PeftError } from "../errors.ts"
import { parseJson } from "../json.ts"
import type { AdapterFormat, PeftConfig } from "../method.ts"
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
const supportedCommon = Object.keys(common).filter((key) => key !== "modules_to_save")

/** The PEFT release whose files these are equal to. */
const peftVersion = "0.21.2"

/** Parses a config. Throws E_JSON naming the line, E_CONFIG when it is no object or names no peft_type. */
export function parseConfig(text: string, file: string): PeftConfig {
  const value = parseJson(text, file)
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new PeftError("E_CONFIG", `[core] ${file} must hold a JSON object`)
  }
  const config = value as PeftConfig
  if (typeof config.peft_type !== "string") {
    throw new PeftError("E_CONFIG", `[core] ${file} has no "peft_type"; is it an adapter made by Hugging Face PEFT?`)
  }
  return config
}

/** Refuses keys that PEFT knows, that change what the adapter computes, and that are not supported here. Throws E_CONFIG_UNSUPPORTED. */
export function checkSupported(config: PeftConfig, format: AdapterFormat, file: string): void {
  const defaults: PeftConfig = { ...common, ...format.defaults }
  const supported = new Set([...supportedCommon, ...format.supported])
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

/** A complete config for a new adapter. */
export function newConfig(
  format: AdapterFormat,
  own: PeftConfig,
  base: string,
  targets: readonly string[],
): PeftConfig {
  return {
    ...common,
    ...format.defaults,
    ...own,
    peft_type: format.peftType,
    peft_version: peftVersion,
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
