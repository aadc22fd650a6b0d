/** Which sites an adapter is put on: matching exactly as PEFT does (reference: peft tuners_utils.check_target_module_exists). */
import { PeftError } from "./errors.ts"
import type { Model } from "./view.ts"

export interface Targets {
  /** Suffixes of module paths, a regular expression over whole paths (a string), or "all-linear". */
  readonly targetModules?: readonly string[] | string
  /** Suffixes or a regular expression of what is left out. */
  readonly excludeModules?: readonly string[] | string
  /** Only these layers, by the first number in the path; not for exact paths. */
  readonly layersToTransform?: readonly number[] | number
  /** Name of the module list that holds the layers, where it is not the first number's. */
  readonly layersPattern?: readonly string[] | string
  /** Modules trained whole, by the end of their path: nothing at or below them is selected. */
  readonly modulesToSave?: readonly string[]
}

export interface Match {
  /** Paths of the selected sites, in the model's order. */
  readonly sites: readonly string[]
  /** Entries of targetModules that select nothing. */
  readonly unmatched: readonly string[]
}

/** Paths of all modules that hold parameters, and of all modules around them. */
export function moduleNames(model: Model): string[] {
  const names = new Set<string>(model.sites.keys())
  for (const path of [...model.params.keys(), ...model.sites.keys()].map((p) => (model.sites.has(p) ? `${p}.` : p))) {
    for (let dot = path.lastIndexOf("."); dot > 0; dot = path.lastIndexOf(".", dot - 1)) names.add(path.slice(0, dot))
  }
  return [...names]
}

/** Modules whose path ends like one of the entries, without regard to dots: what modules_to_save means in PEFT. */
export function modulesAt(model: Model, entries: readonly string[]): string[] {
  return moduleNames(model).filter((name) => entries.some((entry) => name.endsWith(entry)))
}

const suffixMatches = (path: string, entry: string): boolean => path === entry || path.endsWith(`.${entry}`)

/** Compiles a user's pattern; Python's (?P<name>) is accepted. Throws E_REGEX. */
export function pattern(source: string, where: string): RegExp {
  try {
    return new RegExp(`^(?:${source.replaceAll("(?P<", "(?<")})$`)
  } catch (cause) {
    throw new PeftError("E_REGEX", `[core] ${where} is not a regular expression: ${JSON.stringify(source)}`, { cause })
  }
}

/** The sites that the targets select. Throws E_TARGET for combinations PEFT refuses, E_REGEX. */
export function matchTargets(model: Model, targets: Targets): Match {
  const { targetModules, excludeModules, layersToTransform, layersPattern } = targets
  if (targetModules === undefined || targetModules.length === 0) {
    throw new PeftError(
      "E_TARGET",
      '[core] no target modules; give names such as ["q_proj", "v_proj"], a regular expression or "all-linear"',
    )
  }
  const layered = layersToTransform !== undefined || layersPattern !== undefined
  if (layered && typeof targetModules === "string" && targetModules.toLowerCase() !== "all-linear") {
    throw new PeftError(
      "E_TARGET",
      "[core] layersToTransform and layersPattern need targetModules as a list, not as a regular expression",
    )
  }
  if (layersPattern !== undefined && layersToTransform === undefined) {
    throw new PeftError("E_TARGET", "[core] layersPattern needs layersToTransform beside it")
  }
  const excluded = exclusion(excludeModules)
  const whole = modulesAt(model, targets.modulesToSave ?? [])
  const inWhole = (path: string): boolean => whole.some((name) => path === name || path.startsWith(`${name}.`))
  const candidates = [...model.sites.values()].filter(({ path }) => !excluded(path) && !inWhole(path))
  if (typeof targetModules === "string") {
    const all = targetModules.toLowerCase() === "all-linear"
    const regex = all ? undefined : pattern(targetModules, "targetModules")
    const chosen = candidates.filter((s) => (regex ? regex.test(s.path) : s.kind === "linear" && s.path !== model.head))
    const sites = chosen.filter((s) => !all || inLayers(s.path, layersToTransform, layersPattern)).map((s) => s.path)
    return { sites, unmatched: sites.length > 0 ? [] : [targetModules] }
  }
  const sites = candidates
    .filter(
      ({ path }) =>
        targetModules.includes(path) ||
        (targetModules.some((t) => path.endsWith(`.${t}`)) && inLayers(path, layersToTransform, layersPattern)),
    )
    .map((s) => s.path)
  return { sites, unmatched: targetModules.filter((t) => !sites.some((path) => suffixMatches(path, t))) }
}

function exclusion(exclude: Targets["excludeModules"]): (path: string) => boolean {
  if (exclude === undefined) return () => false
  if (typeof exclude === "string") {
    const regex = pattern(exclude, "excludeModules")
    return (path) => regex.test(path)
  }
  return (path) => exclude.some((entry) => suffixMatches(path, entry))
}

function inLayers(path: string, layers: Targets["layersToTransform"], names: Targets["layersPattern"]): boolean {
  if (layers === undefined || (Array.isArray(layers) && layers.length === 0)) return true
  const wanted = typeof layers === "number" ? [layers] : (layers as readonly number[])
  const given = names === undefined ? [] : typeof names === "string" ? [names] : names
  const lists = given.length > 0 ? given : ["[^.]*"]
  const found = lists.map((name) => path.match(new RegExp(`^.*?\\.${name}\\.(\\d+)\\.`))).find((m) => m !== null)
  return found != null && wanted.includes(Number(found[1]))
}

/** Throws E_TARGET when an entry selects nothing, naming what comes near. */
export function requireMatches(model: Model, targets: Targets, match: Match): void {
  const [first] = match.unmatched
  if (first === undefined && match.sites.length > 0) return
  const names = [...new Set([...model.sites.keys()].map((p) => p.split(".").at(-1) as string))]
  const near = names.filter((n) => distance(n, first?.split(".").at(-1) ?? "") <= 3)
  const hint = near.length > 0 ? `did you mean ${near.join(", ")}?` : `the model has ${names.join(", ")}`
  const given = first === undefined ? JSON.stringify(targets.targetModules) : JSON.stringify(first)
  throw new PeftError("E_TARGET", `[core] the target ${given} selects no layer; ${hint}`)
}

/** Levenshtein's edit distance, for near misses. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const swap = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(swap, (row[j] as number) + 1, (next[j - 1] as number) + 1))
    }
    row = next
  }
  return row[b.length] as number
}

/** The shortest suffixes that select exactly `sites` among all modules, sorted: what a new adapter's target_modules says. */
export function shortestSuffixes(model: Model, sites: readonly string[]): string[] {
  const chosen = new Set(sites)
  const others = moduleNames(model).filter((name) => !chosen.has(name))
  const suffixes = sites.map((path) => {
    const words = path.split(".")
    for (let n = 1; n < words.length; n++) {
      const suffix = words.slice(-n).join(".")
      if (!others.some((other) => suffixMatches(other, suffix))) return suffix
    }
    return path
  })
  return [...new Set(suffixes)].sort()
}

/**
 * The value for a module path in a rank_pattern or alpha_pattern: the first key, in order, that is the path, a suffix of it, or a
 * regular expression of one. Throws E_REGEX.
 */
export function fromPattern<T>(patterns: Readonly<Record<string, T>>, path: string, otherwise: T): T {
  const key = Object.keys(patterns).find((k) =>
    pattern(`(?:.*\\.)?(?:${k})`, "a key of rank_pattern or alpha_pattern").test(path),
  )
  return key === undefined ? otherwise : (patterns[key] as T)
}
