/** Reading an adapter that Hugging Face PEFT or we have written. Nothing is imported because a file names it: methods are given. */
import type { FileSource, TensorSource } from "@peftjs/safetensors"
import { openSafetensors, readText, toFloat32 } from "@peftjs/safetensors"
import { attach, freeAdapter, makeAdapterAsync } from "../adapt.ts"
import { PeftError } from "../errors.ts"
import { setValues } from "../host-values.ts"
import type { AdapterFormat, AdapterMethod, PeftConfig } from "../method.ts"
import type { Site } from "../model.ts"
import { type OverlayOptions, trainedOverlays, wholeShape } from "../overlays.ts"
import { matchTargets, type Targets } from "../targets.ts"
import { sameShape, type Tensor } from "../tensor.ts"
import type { Adapter, Model, SiteState } from "../view.ts"
import { uploadDense, type Weight } from "../weight.ts"
import {
  checkSupported,
  configFile,
  keyPrefix,
  overlaysOf,
  parseConfig,
  savedWithBase,
  sharedPrefix,
  targetsOf,
  weightsFile,
} from "./config.ts"

export interface LoadAdapterOptions {
  /** Factories to choose from by peft_type: `[lora]`. */
  readonly methods: readonly { readonly format?: AdapterFormat }[]
  /** Name on this model; "default" unless told otherwise. */
  readonly name?: string
  /** Throw on missing or unexpected tensors; true unless told otherwise. */
  readonly strict?: boolean
}

/** What loading found. Keys are those of the file. */
export interface LoadReport {
  readonly peftType: string
  readonly sites: number
  readonly parameters: number
  /** Tensors the adapter needs and the file lacks: they keep their initial values. */
  readonly missing: readonly string[]
  /** Tensors of the file that nothing uses. */
  readonly unexpected: readonly string[]
  /** Entries of target_modules that select nothing in this model. */
  readonly unmatchedTargets: readonly string[]
}

/**
 * Puts an adapter from a folder on a model.
 * Throws E_PEFT_TYPE (no method given for it), E_CONFIG, E_CONFIG_UNSUPPORTED, E_JSON, E_TARGET (nothing selected), E_ADAPTER_SHAPE,
 * E_ADAPTER_COPY, E_ADAPTER_KEYS (strict), E_FILE_NOT_FOUND and the safetensors reader's errors; the model is not changed then.
 */
export async function loadAdapter(
  model: Model,
  files: FileSource,
  options: LoadAdapterOptions,
): Promise<{ model: Model; report: LoadReport }> {
  const { name = "default", strict = true } = options
  const where = `${files.name}/${configFile}`
  const read = readAdapterConfig(await readText(files, configFile), where, options.methods)
  const { config, format, method, targets, overlays } = read
  const match = matchTargets(model, { ...targets, ...overlays })
  if (match.sites.length === 0) {
    throw new PeftError(
      "E_TARGET",
      `[core] ${where}: target_modules ${JSON.stringify(config.target_modules)} select no layer of this model`,
    )
  }
  const file = await openSafetensors(await files.open(weightsFile))
  const made = await makeAdapterAsync(model, method, match.sites, { name, seed: 0, overlays, loaded: config })
  const states = new Map(made.sites)
  const adapter: Adapter = { ...made, sites: states }
  try {
    const report = await fill(model, adapter, states, format, file)
    if (strict) requireComplete(report, file.name)
    return {
      model: attach(model, adapter),
      report: { ...report, peftType: format.peftType, unmatchedTargets: match.unmatched },
    }
  } catch (error) {
    freeAdapter(adapter)
    throw error
  }
}

/** What an adapter_config.json says. */
export interface AdapterConfig {
  /** As it was written, unknown keys included. */
  readonly config: PeftConfig
  readonly format: AdapterFormat
  readonly method: AdapterMethod
  readonly targets: Targets
  readonly overlays: OverlayOptions
}

/** Reads a config without a model. `where` names the file. Throws E_JSON, E_CONFIG, E_PEFT_TYPE, E_CONFIG_UNSUPPORTED, and what the method throws. */
export function readAdapterConfig(text: string, where: string, methods: LoadAdapterOptions["methods"]): AdapterConfig {
  const config = parseConfig(text, where)
  const format = formatFor(config, methods, where)
  checkSupported(config, format, where)
  const [targets, overlays] = [targetsOf(config, where), overlaysOf(config, where)]
  return { config, format, method: format.read(config), targets, overlays }
}

function requireComplete({ missing, unexpected }: Pick<LoadReport, "missing" | "unexpected">, file: string): void {
  if (missing.length + unexpected.length === 0) return
  const list = (what: string, keys: readonly string[]): string =>
    keys.length === 0 ? "" : ` ${what} ${keys.slice(0, 3).join(", ")}${keys.length > 3 ? `, … (${keys.length})` : ""};`
  throw new PeftError(
    "E_ADAPTER_KEYS",
    `[core] ${file}${list("misses", missing)}${list("has unexpected", unexpected)} is it for this model? (strict: false loads what fits)`,
  )
}

function formatFor(config: PeftConfig, methods: LoadAdapterOptions["methods"], where: string): AdapterFormat {
  const formats = methods.flatMap((m) => (m.format ? [m.format, ...(m.format.alternatives ?? [])] : []))
  const ofType = formats.filter((f) => f.peftType === config.peft_type)
  const found = ofType.find((f) => f.claims?.(config)) ?? ofType.find((f) => !f.claims)
  if (found) return found
  const known = formats.map((f) => f.peftType).join(", ") || "none"
  const package_ = String(config.peft_type).toLowerCase()
  throw new PeftError(
    "E_PEFT_TYPE",
    `[core] ${where} is of type ${JSON.stringify(config.peft_type)}; the methods given load ${known}; import a method for it (@peftjs/${package_}?) and add it to methods`,
  )
}

/** The tensors of an adapter's file, and which of them were used. */
interface Stock {
  readonly file: TensorSource
  readonly used: Set<string>
}

/** The file's key for a name. Old versions of PEFT left the adapter's name, "default", inside. */
function take({ file, used }: Stock, name: string): string | undefined {
  const spellings = [name, name.replace(/\.(weight|bias)$/, ".default.$1"), `${name}.default`]
  const key = spellings.find((spelling) => file.tensors.has(spelling))
  if (key !== undefined) used.add(key)
  return key
}

/** Puts the file's values into an adapter; `states` are its sites, where bases that the file brings along take their place. */
async function fill(
  model: Model,
  adapter: Adapter,
  states: Map<string, SiteState>,
  format: AdapterFormat,
  file: TensorSource,
): Promise<Omit<LoadReport, "peftType" | "unmatchedTargets">> {
  const stock: Stock = { file, used: new Set() }
  const missing: string[] = []
  let parameters = 0
  const put = async (
    name: string,
    parts: readonly Tensor[],
    where: string,
    copies: readonly string[] = [],
  ): Promise<void> => {
    const key = take(stock, name)
    if (key === undefined) {
      missing.push(name)
      return
    }
    const { dtype, shape, data } = await file.read(key)
    const wanted = wholeShape(parts)
    if (!sameShape(shape, wanted)) {
      throw new PeftError(
        "E_ADAPTER_SHAPE",
        `[core] ${file.name}: ${key} is [${shape}], but ${where} the config asks for [${wanted}]`,
      )
    }
    const values = toFloat32(dtype, data)
    parameters += values.length
    for (const copy of copies) await requireCopy(stock, copy, key, shape, values)
    let at = 0
    for (const part of parts) {
      const own = values.subarray(at, at + part.size)
      setValues(part, own)
      at += part.size
    }
  }
  if (format.sharedName) {
    for (const [name, value] of Object.entries(adapter.shared)) {
      await put(`${sharedPrefix}${format.sharedName(name)}`, [value], "for all layers")
    }
  }
  for (const [path, state] of states) {
    const site = model.sites.get(path) as Site
    for (const [param, { value, saved }] of Object.entries(state.params)) {
      const spelled = (name: string): string => `${keyPrefix}${path}.${name}`
      const copies = format.copies?.(param, site.kind).map(spelled)
      const name = spelled(format.tensorName(param, site.kind))
      if (saved) await put(name, [value], `at ${path} [${site.out}, ${site.in}]`, copies)
    }
    const base = await savedBase(model, site, stock)
    if (!base) continue
    state.base?.free()
    states.set(path, { ...state, base })
  }
  for (const { name, tensors } of trainedOverlays(model, adapter)) {
    await put(`${keyPrefix}${name}`, tensors, "for this model")
  }
  const unexpected = [...file.tensors.keys()].filter((key) => !stock.used.has(key))
  return { sites: states.size, parameters, missing, unexpected }
}

/** Refuses a file in which what should be a copy of a tensor is something else. */
async function requireCopy(
  stock: Stock,
  name: string,
  of: string,
  shape: readonly number[],
  values: Float32Array,
): Promise<void> {
  const key = take(stock, name)
  if (key === undefined) return
  const copy = await stock.file.read(key)
  if (sameShape(copy.shape, shape) && toFloat32(copy.dtype, copy.data).every((x, i) => x === values[i])) return
  throw new PeftError(
    "E_ADAPTER_COPY",
    `[core] ${stock.file.name}: ${key} differs from ${of}, of which it should be a copy; the file is damaged or of another method`,
  )
}

/** The base weight that PEFT stores beside an adapter on an embedding or a head. */
async function savedBase(model: Model, site: Site, stock: Stock): Promise<Weight | undefined> {
  if (!savedWithBase.includes(site.path.split(".").at(-1) as string)) return undefined
  const key = take(stock, `${keyPrefix}${site.path}.base_layer.weight`)
  if (key === undefined) return undefined
  const { dtype, shape, data } = await stock.file.read(key)
  if (sameShape(shape, site.base.shape)) return uploadDense(model.backend, toFloat32(dtype, data), "f32", shape)
  throw new PeftError(
    "E_ADAPTER_SHAPE",
    `[core] ${stock.file.name}: ${key} is [${shape}], but ${site.path} is [${site.base.shape}]`,
  )
}
