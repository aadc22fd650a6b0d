/** From a model and the options of `train` and `bench` to a view with something to train. Must not know data or optimizers. */
import {
  type Adapter,
  adaptAsync,
  adapterOf,
  isTensor,
  type Model,
  matchTargets,
  PeftError,
  trainables,
  trainedOverlays,
  unfreeze,
} from "@peftjs/core"
import { loadAdapter } from "@peftjs/core/node"
import { type AdapterFlags, adaptOptions, givenFlags, parseTargets } from "./adapter-options.ts"
import { bundled, makeMethod, methodFactory } from "./method.ts"
import { pairs } from "./options.ts"

/** What decides the method; undefined where it was not given. */
export interface MethodFlags extends AdapterFlags {
  readonly method: string
  readonly initAdapter?: string
  readonly r?: number
  readonly alpha?: number
  readonly dropout?: number
  readonly methodOption?: readonly string[]
  readonly seed: number
}

/** Where an option is not given and the method has one of that name. */
export const methodDefaults: Readonly<Record<"r" | "alpha" | "dropout", number>> = { r: 8, alpha: 16, dropout: 0 }

/**
 * The view to train: every parameter with `full`, a new adapter, or the one of `--init-adapter`.
 *
 * @param warn told of options that mean nothing here
 * @throws E_OPTION (contradictions), E_METHOD, E_TARGET, what the method throws and what loading throws
 */
export async function makeTrainable(model: Model, flags: MethodFlags, warn: (text: string) => void): Promise<Model> {
  const { method, initAdapter, targetModules } = flags
  const placed = givenFlags(flags)
  const given = givenOptions(flags)
  if (method === "full") {
    if (initAdapter !== undefined)
      throw new PeftError("E_OPTION", "[cli] --method full has no adapter to start from; leave out --init-adapter")
    const idle = [...Object.keys(given), ...placed]
    if (idle.length > 0) warn(`--method full trains every parameter: no effect of ${idle.join(", ")}`)
    return unfreeze(model)
  }
  const factory = await methodFactory(method)
  if (initAdapter === undefined) {
    return adaptAsync(model, makeMethod(factory, given, methodDefaults), { ...adaptOptions(flags), seed: flags.seed })
  }
  const loaded = await loadAdapter(model, initAdapter, { methods: [factory, ...bundled] })
  const adapter = adapterOf(loaded.model)
  requireSame(adapter, given, initAdapter)
  const more = placed.filter((flag) => flag !== "target-modules")
  if (more.length > 0) {
    throw new PeftError(
      "E_OPTION",
      `[cli] the adapter in ${initAdapter} decides that itself: leave out --${more.join(", --")}, or start without --init-adapter`,
    )
  }
  if (targetModules !== undefined) requireSameSites(model, adapter, targetModules, initAdapter)
  return loaded.model
}

function givenOptions({ r, alpha, dropout, methodOption = [] }: MethodFlags): Record<string, unknown> {
  const short = Object.entries({ r, alpha, dropout }).filter(([, value]) => value !== undefined)
  return { ...Object.fromEntries(short), ...pairs("--method-option", methodOption) }
}

/** An adapter brings its own options: the same again is fine, others would be ignored and are refused. */
function requireSame({ method, loaded }: Adapter, given: Readonly<Record<string, unknown>>, folder: string): void {
  for (const [key, value] of Object.entries(given)) {
    const own = key in method.config ? method.config[key] : loaded?.[key]
    if (JSON.stringify(own) === JSON.stringify(value)) continue
    throw new PeftError(
      "E_OPTION",
      `[cli] ${key} = ${JSON.stringify(value)}, but the adapter in ${folder} has ${JSON.stringify(own) ?? "none"}; leave the option out, or start without --init-adapter`,
    )
  }
}

function requireSameSites(model: Model, { sites }: Adapter, targetModules: string, folder: string): void {
  const wanted = matchTargets(model, parseTargets(targetModules)).sites
  if (wanted.length === sites.size && wanted.every((path) => sites.has(path))) return
  throw new PeftError(
    "E_OPTION",
    `[cli] --target-modules ${targetModules} selects ${wanted.length} layers, but the adapter in ${folder} sits on ${sites.size}; leave the option out`,
  )
}

export interface Sizes {
  readonly trainable: number
  /** Of the base and the adapter together. */
  readonly total: number
  readonly base: number
}

/** Numbers of elements. */
export function countParameters(model: Model): Sizes {
  const base = [...model.params.values()].reduce((n, p) => n + (isTensor(p) ? p.size : p.shape[0] * p.shape[1]), 0)
  const added = model.view.adapters
    .flatMap(({ sites }) => [...sites.values()].flatMap(({ params }) => Object.values(params)))
    .reduce((n, { value }) => n + value.size, 0)
  const beside = model.view.adapters
    .flatMap((adapter) => trainedOverlays(model, adapter))
    .reduce((n, { tensors, again }) => n + (again ? 0 : tensors.reduce((m, t) => m + t.size, 0)), 0)
  const trainable = trainables(model).reduce((n, { tensor }) => n + tensor.size, 0)
  return { trainable, total: base + added + beside, base }
}
