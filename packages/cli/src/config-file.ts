/**
 * `--config FILE.yaml`: options written down. They become arguments before the ones typed, so that they are checked the same way and
 * the command line wins. Must not know any option by meaning.
 */
import { basename, dirname } from "node:path"
import { PeftError } from "@peftjs/core"
import { readText } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { type Document, parseDocument } from "yaml"

/** Options of which one takes the other's place. */
const rivals: Readonly<Record<string, string>> = {
  "max-steps": "epochs",
  epochs: "max-steps",
  model: "init-config",
  "init-config": "model",
}

/** Options that may be given several times: a list gives each of its items, where others take them joined by commas. */
const repeatable = ["method-option", "lr-scheduler-option", "stop"]
/** Those of them that are name=value, and may be a table. */
const named = ["method-option", "lr-scheduler-option"]

/**
 * The arguments with those of the file that `--config` names in front, after the command's name.
 * Keys are option names as kebab-case, camelCase or snake_case; `method-option` and `lr-scheduler-option` may be tables.
 * Throws E_FILE_NOT_FOUND, E_YAML naming the line, E_CONFIG_FILE for what is no table of options.
 */
export async function withConfigFile(args: readonly string[]): Promise<string[]> {
  const file = valueOfFlag(args, "--config")
  const [command, ...typed] = args
  if (file === undefined || command === undefined) return [...args]
  const table = tableOf(parseDocument(await readText(nodeFiles(dirname(file)), basename(file))), file)
  const written = Object.entries(table).flatMap(([key, value]) => {
    const name = kebab(key)
    const rival = rivals[name]
    if (name === "config" || (rival && valueOfFlag(typed, `--${rival}`) !== undefined)) return []
    return argumentsOf(name, value, file)
  })
  return [command, ...written, ...typed]
}

function valueOfFlag(args: readonly string[], flag: string): string | undefined {
  const joined = args.findLast((arg) => arg.startsWith(`${flag}=`))
  const at = args.lastIndexOf(flag)
  return joined?.slice(flag.length + 1) ?? (at < 0 ? undefined : args[at + 1])
}

function tableOf(document: Document, file: string): Record<string, unknown> {
  const [error] = document.errors
  if (error) {
    const { line, col } = error.linePos?.[0] ?? { line: 1, col: 1 }
    const what = error.message.split("\n")[0]?.replace(/ at line .*$/, "")
    throw new PeftError("E_YAML", `[cli] ${file}, line ${line}, column ${col}: ${what}`, { cause: error })
  }
  const value: unknown = document.toJS() ?? {}
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new PeftError("E_CONFIG_FILE", `[cli] ${file} must hold a table of options, such as "learning-rate: 2e-4"`)
}

const kebab = (key: string): string => key.replaceAll("_", "-").replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)

function argumentsOf(name: string, value: unknown, file: string): string[] {
  if (value === null) return []
  if (value === true) return [`--${name}`]
  // `shuffle: false` is --no-shuffle; `json: false` is what there is without --json.
  if (value === false) return name === "shuffle" ? ["--no-shuffle"] : []
  if (Array.isArray(value)) {
    if (value.every((item) => typeof item === "string" || typeof item === "number")) {
      if (!repeatable.includes(name)) return [`--${name}`, value.join(",")]
      return value.flatMap((item) => [`--${name}`, String(item)])
    }
  } else if (typeof value === "object") {
    const entries = Object.entries(value as object)
    if (named.includes(name)) return entries.flatMap(([key, item]) => [`--${name}`, `${key}=${JSON.stringify(item)}`])
  } else return [`--${name}`, String(value)]
  throw new PeftError("E_CONFIG_FILE", `[cli] ${file}: "${name}" cannot be ${JSON.stringify(value)}; give one value`)
}
