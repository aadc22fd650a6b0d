/**
 * From a Hugging Face folder to a model: config, weights, tokenizer. Weights stream one by one into the backend as they are stored,
 * so that the model never exists twice. Knows no particular architecture and no adapter.
 */
import type { Backend, DType, Model, Tensor, Tokenizer, TypedArray, Weight, WeightFormat } from "@peftjs/core"
import {
  bindModel,
  bytesPerElement,
  denseWeight,
  freeValues,
  PeftError,
  rowsPerPart,
  tensor,
  uploadDense,
} from "@peftjs/core"
import {
  type Dtype,
  type FileSource,
  openModel,
  type TensorData,
  type TensorInfo,
  type TensorSource,
  tensorBytes,
  toFloat32,
} from "@peftjs/safetensors"
import type { Architecture, Blueprint, ParamSpec } from "./architecture.ts"
import { architectureOf, defineModel } from "./architecture.ts"
import { type Config, readConfig } from "./config.ts"
import { turned } from "./conv1d.ts"
import { gpt2 } from "./gpt2.ts"
import { llama } from "./llama.ts"
import {
  encodeStored,
  folderFormats,
  moduleOf,
  packedTensors,
  type Quantised,
  quantisable,
  requireClaimed,
  withQuantisation,
} from "./load-packed.ts"
import { mistral } from "./mistral.ts"
import { qwen2 } from "./qwen2.ts"
import { qwen3 } from "./qwen3.ts"
import { loadTokenizer, tokenizerFile } from "./tokenizer.ts"

/** What is known unless others are passed. */
export const defaultArchitectures: readonly Architecture[] = [gpt2, llama, mistral, qwen2, qwen3]

export interface LoadOptions {
  readonly backend: Backend
  /** Written into adapters as base_model_name_or_path; the folder's name unless told otherwise. */
  readonly name?: string
  readonly architectures?: readonly Architecture[]
  /** Quantises the matrices of linear layers while loading, one after the other. What a folder holds in this format is read as it is. */
  readonly weights?: WeightFormat
  /** Layers that stay as they are: by path, by the end of it or by its beginning. The head unless told otherwise; embeddings always. */
  readonly skipModules?: readonly string[]
  /** Formats in which the folder may be quantised; that of `weights` unless told otherwise. */
  readonly formats?: readonly WeightFormat[]
}

/**
 * Loads a causal language model: one model.safetensors or shards with an index, and tokenizer.json if there is one.
 * Matrices keep their stored type where the backend has it (bf16, f16), else become f32; vectors are f32.
 *
 * Throws E_FILE_NOT_FOUND, E_JSON, E_CONFIG (naming the key), E_MODEL (model_type not known), E_WEIGHTS (a tensor missing, unexpected,
 * of another shape, of a type that is no float or in another format than config.json says), E_TOKENIZER, what the format throws, and what the safetensors reader throws; then nothing stays on the backend.
 */
export async function loadCausalLM(files: FileSource, options: LoadOptions): Promise<Model> {
  const { backend, name = files.name, architectures = defaultArchitectures } = options
  const config = await readConfig(files)
  const stored = folderFormats(config, options)
  const blueprint = architectureOf(config, architectures).blueprint(config)
  const source = await openModel(files)
  const nameOf = (path: string): string => storedName(source, path, blueprint.prefix)
  const packed = packedTensors(source, blueprint, stored, nameOf)
  requireClaimed(source, blueprint, { ...options, claimed: stored, packed }, nameOf)
  checkTensors(source, blueprint, packed, nameOf)
  const tokenizer: Tokenizer | undefined = (await files.has(tokenizerFile)) ? await loadTokenizer(files) : undefined
  const encoded = stored.length === 0 ? options.weights : undefined
  const plan: Plan = {
    ...{ backend, nameOf, memory: readingMemory() },
    packed,
    ...(encoded ? { encoded, chosen: quantisable(blueprint, options.skipModules) } : {}),
  }
  const params = await upload(source, blueprint, plan)
  const described: Config = encoded ? withQuantisation(config, encoded, options.skipModules) : config
  return bindModel(defineModel(blueprint, { backend, config: described, name, params, tokenizer }))
}

/** How each parameter gets from its file to the backend. */
interface Plan {
  readonly backend: Backend
  readonly memory: ReadingMemory
  readonly nameOf: (path: string) => string
  /** What the folder holds quantised. */
  readonly packed: Quantised
  /** What to quantise to, and which parameters. */
  readonly encoded?: WeightFormat
  readonly chosen?: ReadonlySet<string>
}

const floats: readonly Dtype[] = ["F32", "F16", "BF16", "F64"]

/** Compares names, shapes and types before anything is read. Throws E_WEIGHTS with the first few of what is wrong. */
function checkTensors(
  source: TensorSource,
  { params, ignored }: Blueprint,
  packed: Quantised,
  nameOf: (path: string) => string,
): void {
  const wrong: string[] = []
  const known = new Set<string>()
  for (const [path, spec] of params) {
    const name = nameOf(path)
    known.add(name)
    const several = packed.get(path)
    if (several) {
      // Their sizes are for the format to judge.
      for (const one of several.names) known.add(`${moduleOf(name)}.${one}`)
      continue
    }
    const info = source.tensors.get(name)
    const shape = storedShape(spec)
    if (!info) wrong.push(`${path} is missing`)
    else if (!sameShape(info, shape)) wrong.push(`${path} is [${info.shape}], config.json makes it [${shape}]`)
    else if (!floats.includes(info.dtype)) wrong.push(`${path} is ${info.dtype}, supported are ${floats.join(", ")}`)
  }
  for (const name of source.tensors.keys()) {
    if (!known.has(name) && !ignored.test(name)) wrong.push(`${name} is unexpected`)
  }
  if (wrong.length === 0) return
  const rest = wrong.length > 3 ? `; and ${wrong.length - 3} more` : ""
  throw new PeftError(
    "E_WEIGHTS",
    `[models] the weights in ${source.name} do not fit its config.json: ${wrong.slice(0, 3).join("; ")}${rest}. Fetch both again from one place`,
  )
}

/** A file of the bare model leaves the prefix out, as the first releases of GPT-2 do. */
function storedName({ tensors }: TensorSource, path: string, prefix: string | undefined): string {
  const bare = prefix !== undefined && path.startsWith(prefix) ? path.slice(prefix.length) : path
  return !tensors.has(path) && tensors.has(bare) ? bare : path
}

const storedShape = ({ shape, fanInFanOut }: ParamSpec): readonly number[] =>
  fanInFanOut ? [...shape].reverse() : shape

function sameShape({ shape }: TensorInfo, expected: readonly number[]): boolean {
  return shape.length === expected.length && shape.every((d, i) => d === expected[i])
}

async function upload(source: TensorSource, { params }: Blueprint, plan: Plan): Promise<Map<string, Tensor | Weight>> {
  const uploaded = new Map<string, Tensor | Weight>()
  try {
    for (const [path, spec] of params) uploaded.set(path, await uploadParam(source, path, spec, plan))
    return uploaded
  } catch (error) {
    freeValues(uploaded.values())
    throw error
  }
}

async function uploadParam(
  source: TensorSource,
  path: string,
  spec: ParamSpec,
  { backend, nameOf, packed, encoded, chosen, memory }: Plan,
): Promise<Tensor | Weight> {
  const name = nameOf(path)
  const several = packed.get(path)
  if (encoded && chosen?.has(path)) return encodeStored(source, name, spec, encoded, backend)
  if (!several?.format.files) return uploadOne(source, name, spec, backend, memory)
  const module = moduleOf(name)
  const tensors = new Map<string, TensorData>()
  for (const one of several.names) tensors.set(one, await source.read(`${module}.${one}`))
  const ref = { file: source.name, name }
  return several.format.files.read(backend, module, spec.shape as readonly [number, number], tensors, { source: ref })
}

async function uploadOne(
  source: TensorSource,
  name: string,
  { shape, fanInFanOut }: ParamSpec,
  backend: Backend,
  memory: ReadingMemory,
): Promise<Tensor | Weight> {
  if (shape.length === 1) {
    const { dtype, data } = await source.read(name)
    return tensor(backend, toFloat32(dtype, data), shape)
  }
  const [rows, columns] = shape
  const stored = source.tensors.get(name)?.dtype as Dtype
  const kept = keptType(stored, backend)
  const valuesOf = ({ dtype, data }: TensorData): TypedArray =>
    kept === undefined ? toFloat32(dtype, data) : (data as TypedArray)
  const ref = { file: source.name, name }
  if (fanInFanOut) {
    const whole = await source.read(name)
    const values = valuesOf({ ...whole, data: turned(whole.data, columns, rows) })
    return uploadDense(backend, values, kept ?? "f32", shape, ref)
  }
  const dtype = kept ?? "f32"
  const rowBytes = columns * bytesPerElement[dtype]
  const step = Math.min(rowsPerPart(backend, columns, dtype), Math.max(1, Math.floor(pieceBytes / rowBytes)))
  const parts: Tensor[] = []
  try {
    for (let at = 0; at < rows; at += step) {
      const end = Math.min(rows, at + step)
      const values = valuesOf(await source.readRows(name, at, end, memory(tensorBytes(stored, [end - at, columns]))))
      parts.push(tensor(backend, values, [end - at, columns], dtype))
    }
  } catch (error) {
    freeValues(parts)
    throw error
  }
  return denseWeight(parts, ref)
}

/** Memory of at least so many bytes, the same one as long as it suffices: what was read into it before has gone to the backend. */
type ReadingMemory = (bytes: number) => Uint8Array

function readingMemory(): ReadingMemory {
  let memory = new Uint8Array(0)
  return (bytes) => {
    if (memory.byteLength < bytes) memory = new Uint8Array(bytes)
    return memory
  }
}

/** What of a matrix is in memory twice, as it was read and on the device: a larger one is stored in parts. */
const pieceBytes = 2 ** 27

const storedAs: Partial<Record<Dtype, DType>> = { F32: "f32", F16: "f16", BF16: "bf16" }

function keptType(dtype: Dtype, { supports }: Backend): DType | undefined {
  const kept = storedAs[dtype]
  return kept && supports.dtypes.includes(kept) ? kept : undefined
}
