/**
 * A method by its name, with its options as text: the one place where a name becomes a value.
 * Nothing is installed, and nothing is imported because a checkpoint named it. Must not know any method but those that come along.
 */
import { readFileSync, statSync } from "node:fs"
import { createRequire } from "node:module"
import { basename, extname, join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { type AdapterMethod, type MethodFactory, type PeftConfig, PeftError } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { mora } from "@peftjs/mora"

type Factory = MethodFactory<Record<string, unknown>>

/** The methods whose adapters load without `--method`. */
export const bundled: readonly MethodFactory<object>[] = [lora, mora]

/**
 * The factory of a method: a file, or a package's folder, if the name begins with "." or "/", else @peftjs/NAME, else the npm package NAME.
 * Throws E_METHOD when there is none, when it fails to load, or when it exports no factory.
 */
export async function methodFactory(name: string): Promise<Factory> {
  const path = /^[./]/.test(name)
  if (!path && !/^(@[a-z0-9][\w.-]*\/)?[a-z0-9][\w.-]*$/i.test(name)) {
    throw new PeftError(
      "E_METHOD",
      `[cli] --method ${JSON.stringify(name)} is neither a name nor a path beginning with ./`,
    )
  }
  const tried = path ? [entryOf(resolve(name))] : [`@peftjs/${name}`, name].filter((n) => !n.startsWith("@peftjs/@"))
  for (const specifier of tried) {
    const found = await load(specifier)
    if (found) return factoryIn(found, basename(name, extname(name)), specifier)
  }
  const hint = path
    ? "is there such a file?"
    : `install a package of that name, give a path beginning with ./, or use lora, mora or full`
  throw new PeftError("E_METHOD", `[cli] no method ${JSON.stringify(name)}: tried ${tried.join(" and ")}; ${hint}`)
}

/** The file that stands for a folder: what its package.json exports, as Node picks it for an import, or index.js. A file stands for itself. */
function entryOf(path: string): string {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return path
  const manifest = join(path, "package.json")
  if (!statSync(manifest, { throwIfNoEntry: false })) return join(path, "index.js")
  try {
    const { exports, main } = JSON.parse(readFileSync(manifest, "utf8")) as Manifest
    return join(path, exported(exports) ?? main ?? "index.js")
  } catch (cause) {
    throw new PeftError("E_METHOD", `[cli] ${manifest} cannot be read: ${(cause as Error).message}`, { cause })
  }
}

type Exports = string | null | undefined | { readonly [key: string]: Exports }
interface Manifest {
  readonly exports?: Exports
  readonly main?: string
}

function exported(exports: Exports): string | undefined {
  if (typeof exports !== "object" || exports === null) return exports ?? undefined
  if ("." in exports) return exported(exports["."])
  const condition = Object.keys(exports).find((key) => ["node", "import", "default"].includes(key))
  return condition === undefined ? undefined : exported(exports[condition])
}

type Module = Readonly<Record<string, unknown>>

/** The module, from beside this program or from where the user is; undefined if neither has it. */
async function load(specifier: string): Promise<Module | undefined> {
  const here = specifier.startsWith("/") ? pathToFileURL(specifier).href : specifier
  return (await importIfThere(here, specifier)) ?? importIfThere(resolveFrom(process.cwd(), specifier), specifier)
}

async function importIfThere(url: string | undefined, specifier: string): Promise<Module | undefined> {
  if (url === undefined) return undefined
  try {
    return (await import(url)) as Module
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    const absent = code === "ERR_MODULE_NOT_FOUND" && message.includes(specifier)
    if (absent) return undefined
    throw new PeftError("E_METHOD", `[cli] ${specifier} was found but fails to load: ${message}`, { cause })
  }
}

function resolveFrom(folder: string, specifier: string): string | undefined {
  try {
    return pathToFileURL(createRequire(join(folder, "package.json")).resolve(specifier)).href
  } catch {
    return undefined
  }
}

function factoryIn(module: Module, name: string, specifier: string): Factory {
  const camel = name.replace(/-([a-z0-9])/g, (_, c: string) => c.toUpperCase())
  const found = module.default ?? module[camel]
  if (typeof found === "function") return found as Factory
  throw new PeftError(
    "E_METHOD",
    `[cli] ${specifier} exports no method: export a factory as default or as ${camel} (it has ${Object.keys(module).join(", ") || "nothing"})`,
  )
}

/**
 * Makes the method. Options go by the factory's own names or by PEFT's (`use_rslora`); `defaults` hold only where the method has such an
 * option. Throws E_OPTION, E_CONFIG_UNSUPPORTED for what PEFT knows and the method does not, and what the factory throws.
 */
export function makeMethod(
  factory: Factory,
  given: Readonly<Record<string, unknown>>,
  defaults: Readonly<Record<string, unknown>> = {},
): AdapterMethod {
  const { format } = factory
  const known = factory().config
  const own: Record<string, unknown> = Object.fromEntries(Object.entries(defaults).filter(([key]) => key in known))
  const peft: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(given)) {
    if (key in known || !format || !(key in format.defaults)) own[key] = value
    else if (format.supported.includes(key) || same(value, format.defaults[key])) peft[key] = value
    else if (besideMethod.includes(key)) {
      const flag = key.replaceAll("_", "-")
      throw new PeftError("E_OPTION", `[cli] ${key} is no option of the method but of every adapter: use --${flag}`)
    } else {
      throw new PeftError(
        "E_CONFIG_UNSUPPORTED",
        `[cli] --method-option ${key}=${JSON.stringify(value)} is not supported; PEFT's options that are: ${format.supported.join(", ")}`,
      )
    }
  }
  const method = factory(own)
  if (!format || Object.keys(peft).length === 0) return method
  return format.read({ ...(format.write(method, []) as PeftConfig), ...peft })
}

/** What PEFT keeps among the options of some methods, and every method has here. */
const besideMethod = ["bias", "trainable_token_indices", "ensure_weight_tying"]

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b)
