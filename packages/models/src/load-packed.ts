/**
 * Loading matrices that are packed: quantised while they stream in, or as the folder holds them. Formats are values that are passed;
 * must not know any of them.
 */
import type { Backend, EncodeOptions, ValueType, Weight, WeightFormat } from "@peftjs/core"
import { isPeftError, PeftError } from "@peftjs/core"
import { type Dtype, type TensorSource, toFloat32 } from "@peftjs/safetensors"
import type { Blueprint, ParamSpec } from "./architecture.ts"
import { type Config, configOf } from "./config.ts"
import { turned } from "./conv1d.ts"

/** Path of a parameter → its format, and the tensors that hold it by their names behind the module's path. */
export type Quantised = ReadonlyMap<string, { readonly format: WeightFormat; readonly names: readonly string[] }>

interface Formats {
  readonly weights?: WeightFormat
  readonly formats?: readonly WeightFormat[]
}

/** The formats a folder says its weights may be in. Throws E_CONFIG when those are not among the given, or not the one asked for. */
export function folderFormats({ values }: Config, { weights, formats }: Formats): readonly WeightFormat[] {
  const given = values.quantization_config
  if (given == null) return []
  const known = formats ?? (weights ? [weights] : [])
  const found = known.filter((format) => format.files?.claims(given as Record<string, unknown>))
  if (found.length > 0 && (!weights || found.every((format) => format.name === weights.name))) return found
  const { quant_method, load_in_8bit, bnb_4bit_quant_type } = given as Record<string, unknown>
  const type = load_in_8bit ? "int8" : (bnb_4bit_quant_type ?? "of unknown type")
  const wanted = weights && weights.name !== type ? `, and ${weights.name} was asked for` : ""
  const [kind, way] =
    quant_method === "gguf"
      ? ["gguf's", "{ formats: ggufFormats } of @peftjs/gguf to use it as it is, or a file in F32, F16 or BF16"]
      : [
          `${quant_method}'s (${type})`,
          "its format, as in { weights: nf4() } with nf4 of @peftjs/qlora, or use the folder it was made from",
        ]
  throw new PeftError("E_CONFIG", `[models] config.json: "quantization_config" is ${kind}${wanted}; give ${way}`)
}

/** "model.layers.0.mlp.up_proj" of the weight's name. */
export const moduleOf = (name: string): string => name.replace(/\.weight$/, "")

/** Which parameters the folder holds in one of its formats. */
export function packedTensors(
  source: TensorSource,
  { params }: Blueprint,
  formats: readonly WeightFormat[],
  nameOf: (path: string) => string,
): Quantised {
  const found = new Map<string, { format: WeightFormat; names: readonly string[] }>()
  if (formats.length === 0) return found
  const stored = [...source.tensors.keys()]
  for (const [path, { shape }] of params) {
    if (shape.length !== 2) continue
    const prefix = `${moduleOf(nameOf(path))}.`
    const present = stored.flatMap((name) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : []))
    for (const format of formats) {
      const names = format.files?.names(present)
      if (names) found.set(path, { format, names })
    }
  }
  return found
}

/** Refuses a folder whose config.json speaks of other formats than its weights are in, as far as formats are known. Throws E_WEIGHTS. */
export function requireClaimed(
  source: TensorSource,
  blueprint: Blueprint,
  {
    claimed,
    packed,
    weights,
    formats,
  }: Formats & { readonly claimed: readonly WeightFormat[]; readonly packed: Quantised },
  nameOf: (path: string) => string,
): void {
  const wrong = (what: string): PeftError =>
    new PeftError("E_WEIGHTS", `[models] ${what}. Fetch the folder again, or quantise its source anew`)
  const says = claimed.map(({ name }) => name).join(" or ") || "that nothing is quantised"
  const others = (formats ?? (weights ? [weights] : [])).filter((format) => !claimed.includes(format))
  for (const [path, { format }] of packedTensors(source, blueprint, others, nameOf)) {
    if (!packed.has(path))
      throw wrong(`${path} in ${source.name} is stored as ${format.name}; config.json says ${says}`)
  }
  if (claimed.length > 0 && packed.size === 0)
    throw wrong(`config.json says ${says}, but no weight in ${source.name} is stored so`)
}

/** Parameters of linear layers that are neither skipped nor an embedding's. */
export function quantisable({ sites, head }: Blueprint, skip: readonly string[] = [head]): ReadonlySet<string> {
  const embeddings = new Set(sites.flatMap((site) => (site.kind === "embedding" ? [site.param] : [])))
  const skipped = (path: string): boolean =>
    skip.some((name) => path === name || path.endsWith(`.${name}`) || path.startsWith(`${name}.`))
  const kept = new Set(sites.flatMap((site) => (skipped(site.path) ? [site.param] : [])))
  return new Set(sites.map((site) => site.param).filter((param) => !embeddings.has(param) && !kept.has(param)))
}

/** Values that are widened at a time. */
const blockElements = 2 ** 20

/** Quantises a stored matrix block by block. */
export async function encodeStored(
  source: TensorSource,
  name: string,
  { shape, fanInFanOut }: ParamSpec,
  format: WeightFormat,
  backend: Backend,
): Promise<Weight> {
  const [rows, columns] = shape as readonly [number, number]
  const step = Math.max(1, Math.floor(blockElements / columns))
  async function* blocks(): AsyncGenerator<Float32Array> {
    if (fanInFanOut) {
      const { dtype, data } = await source.read(name)
      yield toFloat32(dtype, turned(data, columns, rows))
      return
    }
    for (let at = 0; at < rows; at += step) {
      const { dtype, data } = await source.readRows(name, at, Math.min(rows, at + step))
      yield toFloat32(dtype, data)
    }
  }
  const dtype = valueTypes[source.tensors.get(name)?.dtype as Dtype] ?? "f32"
  const options: EncodeOptions = { dtype, source: { file: source.name, name } }
  try {
    return await format.encode(backend, [rows, columns], blocks(), options)
  } catch (cause) {
    if (!isPeftError(cause) || cause.code !== "E_NOT_FINITE") throw cause
    throw new PeftError(
      "E_NOT_FINITE",
      `[models] ${name} in ${source.name} holds NaN or Inf, which ${format.name} cannot; the training that wrote it broke down, or the file did: use another`,
      { cause },
    )
  }
}

const valueTypes: Partial<Record<Dtype, ValueType>> = { F16: "f16", BF16: "bf16" }
const torchTypes: Readonly<Record<string, ValueType>> = { float16: "f16", bfloat16: "bf16" }

/** The config of a model that was quantised while it was loaded. */
export function withQuantisation(
  config: Config,
  { files }: WeightFormat,
  skipModules: readonly string[] | undefined,
): Config {
  if (!files) return config
  const dtype = torchTypes[String(config.values.dtype ?? config.values.torch_dtype)] ?? "f32"
  const own = files.config({ dtype, ...(skipModules ? { skipModules } : {}) })
  return configOf({ ...config.values, quantization_config: own })
}
