/** Options of a method: completed with defaults, and read from and written to adapter_config.json under PEFT's names. */
import { PeftError } from "./errors.ts"
import type { PeftConfig } from "./method.ts"

/** Option → key of adapter_config.json. */
export type Spelling = Readonly<Record<string, string>>

/** All options of a method. Throws E_OPTION for one it does not have. */
export function completeOptions<T extends object>(method: string, defaults: T, given: Partial<T>): T {
  const values = Object.entries(given).filter(([, value]) => value !== undefined)
  const unknown = values.find(([key]) => !(key in defaults))
  if (unknown === undefined) return { ...defaults, ...Object.fromEntries(values) }
  throw new PeftError(
    "E_OPTION",
    `[${method}] there is no option "${unknown[0]}"; there are ${Object.keys(defaults).join(", ")}`,
  )
}

/** The options that a config gives, each of its default's type. Throws E_CONFIG. */
export function optionsOf(
  method: string,
  spelling: Spelling,
  defaults: PeftConfig,
  config: PeftConfig,
): Record<string, unknown> {
  const given = Object.entries(spelling).filter(([, key]) => config[key] != null)
  for (const [, key] of given) {
    const [value, wanted] = [config[key], typeof defaults[key]]
    // Booleans that also have words: init_lora_weights.
    if (typeof value === wanted || (wanted === "boolean" && typeof value === "string")) continue
    const type = wanted === "object" ? "table of numbers" : wanted
    throw new PeftError("E_CONFIG", `[${method}] "${key}" must be a ${type}, not ${JSON.stringify(value)}`)
  }
  return Object.fromEntries(given.map(([name, key]) => [name, config[key]]))
}

/** The keys of adapter_config.json that hold a method's options. */
export function configFor(spelling: Spelling, options: PeftConfig): PeftConfig {
  return Object.fromEntries(Object.entries(spelling).map(([name, key]) => [key, options[name]]))
}
