/**
 * Loading matrices that are packed: quantised while they stream in, or as the folder holds them. Formats are values that are passed;
 * must not know any of them.
 */
import type { Backend, EncodeOptions, ValueType, Weight, WeightFormat } from "@peftjs/core"
import { PeftError } from "@peftjs/core"
import { type Dtype, type TensorSource, toFloat32 } from "@peftjs/safetensors"
import type { Blueprint, ParamSpec } from "./architecture.ts"
import { type Config, configOf } from "./config.ts"
import { turned } from "./conv1d.ts"

/** Path of a parameter → the tensors that hold it, by their names behind the module's path. */
export type Quantised = ReadonlyMap<string, readonly string[]>

interface Formats {
  readonly weights?: WeightFormat
  readonly formats?: readonly WeightFormat[]
}

/** The format a folder says it is quantised in. Throws E_CONFIG when that is not among those given, or not the one asked for. */
export function folderFormat({ values }: Config, { weights, formats }: Formats): WeightFormat | undefined {
  const given = values.quantization_config
  if (given == null) return undefined
  const known = formats ?? (weights ? [weights] : [])
  const found = known.find((format) => format.files?.claims(given as Record<string, unknown>))
  if (found && (!weights || weights.name === found.name)) return found
  const { quant_method, load_in_8bit, bnb_4bit_quant_type } = given as Record<string, unknown>
  const type = load_in_8bit ? "int8" : (bnb_4bit_quant_type ?? "of unknown type")
  const wanted = weights && weights.name !== type ? `, and ${weights.name} was asked for` : ""
  throw new PeftError(
    "E_CONFIG",
    `[models] config.json: "quantization_config" is ${quant_method}'s (${type})${wanted}; give its format, as in { weights: nf4() } with nf4 of @peftjs/qlora, or use the folder it was made from`,
  )
}

/** "model.layers.0.mlp.up_proj" of the weight's name. */
export const moduleOf = (name: string): string => name.replace(/\.weight$/, "")

/** Which parameters the folder holds in its format. */
export function packedTensors(
  source: TensorSource,
  { params }: Blueprint,
  format: WeightFormat | undefined,
  nameOf: (path: string) => string,
): Quantised {
  const found = new Map<string, readonly string[]>()
  if (!format?.files) return found
  const stored = [...source.tensors.keys()]
  for (const [path, { shape }] of params) {
    if (shape.length !== 2) continue
    const prefix = `${moduleOf(nameOf(path))}.`
    const present = stored.flatMap((name) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : []))
    const names = format.files.names(present)
    if (names) found.set(path, names)
  }
  return found
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
  return format.encode(backend, [rows, columns], blocks(), options)
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
