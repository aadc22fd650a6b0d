/**
 * config.json with its values checked one by one: what is missing or of the wrong kind is an error that names the key.
 * Knows no model; null means not given, as transformers writes it.
 */
import { PeftError, parseJson } from "@peftjs/core"
import { type FileSource, readText } from "@peftjs/safetensors"

export const configFile = "config.json"

/** config.json, or one object inside it. Every reader throws E_CONFIG; without `otherwise` the key is required. */
export interface Config {
  /** As read. */
  readonly values: Readonly<Record<string, unknown>>
  /** A whole number, at least `min` (1 unless told otherwise). */
  whole(key: string, otherwise?: number, min?: number): number
  /** A finite number above 0. */
  positive(key: string, otherwise?: number): number
  flag(key: string, otherwise?: boolean): boolean
  text(key: string, otherwise?: string): string
  /** The object under a key, or undefined. */
  section(key: string): Config | undefined
  /** Throws E_CONFIG: what the value may be, and perhaps what to do. */
  refuse(key: string, allowed: string): never
}

/** Wraps parsed JSON; `file` is what to call it in messages. Throws E_CONFIG when it is no object. */
export function configOf(parsed: unknown, file: string = configFile, prefix = ""): Config {
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new PeftError(
      "E_CONFIG",
      `[models] ${file} must hold a JSON object, not ${JSON.stringify(parsed)?.slice(0, 40)}`,
    )
  }
  const values = parsed as Record<string, unknown>
  const refuse = (key: string, allowed: string): never => {
    const given = values[key] === undefined ? "is missing" : `is ${JSON.stringify(values[key])}`
    throw new PeftError("E_CONFIG", `[models] ${file}: "${prefix}${key}" ${given}; ${allowed}`)
  }
  const value = <T>(key: string, otherwise: T | undefined, allowed: string, fits: (v: unknown) => boolean): T => {
    const given = values[key] ?? otherwise
    return fits(given) ? (given as T) : refuse(key, `it must be ${allowed}`)
  }
  return {
    values,
    refuse,
    whole: (key, otherwise, min = 1) =>
      value(key, otherwise, `a whole number, at least ${min}`, (v) => Number.isSafeInteger(v) && (v as number) >= min),
    positive: (key, otherwise) =>
      value(key, otherwise, "a number above 0", (v) => Number.isFinite(v) && (v as number) > 0),
    flag: (key, otherwise) => value(key, otherwise, "true or false", (v) => typeof v === "boolean"),
    text: (key, otherwise) => value(key, otherwise, "a string", (v) => typeof v === "string"),
    section: (key) => (values[key] == null ? undefined : configOf(values[key], `${file}: "${prefix}${key}"`)),
  }
}

/** Reads config.json of a model folder. Throws E_FILE_NOT_FOUND, E_JSON, E_CONFIG. */
export async function readConfig(files: FileSource): Promise<Config> {
  const file = `${files.name}/${configFile}`
  return configOf(parseJson(await readText(files, configFile), file), file)
}
