/**
 * From a model back to a Hugging Face folder: what full fine-tuning has changed stands in place of what was loaded.
 * Values leave the device in blocks of rows, so that neither the model nor its largest matrix exists twice. Adapters are saved by core, not here.
 */
import type { Engine, Model, ModelDefinition, StoredWeight, Tensor, Weight } from "@peftjs/core"
import { computed, engineOf, hostValues, isTensor, PeftError, rowsPerPart } from "@peftjs/core"
import {
  type FileSink,
  type FileSource,
  fromFloat32,
  type LazyTensorInput,
  type TensorArray,
  writeText,
} from "@peftjs/safetensors"
import { configFile } from "./config.ts"
import { turned } from "./conv1d.ts"
import { defaultShardBytes, writeShards } from "./shards.ts"

export interface SaveOptions {
  /** Type of the stored weights; "f32" unless told otherwise. */
  readonly dtype?: "f32" | "bf16" | "f16"
  /** A file is no larger than this, unless one tensor is; 5 GB unless told otherwise. */
  readonly maxShardBytes?: number
  /** A model folder whose tokenizer and generation settings are copied along. */
  readonly copyFrom?: FileSource
}

const stored = {
  f32: { dtype: "F32", name: "float32" },
  bf16: { dtype: "BF16", name: "bfloat16" },
  f16: { dtype: "F16", name: "float16" },
} as const

const copied = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
]

/**
 * Writes config.json and the weights, names as they were loaded, a tied head not repeated; weights last, so that a folder
 * with weights is whole. A model whose quantised weights are all as they were is written quantised, any other dense. Throws E_UNMERGED when the model has adapters, and what the sink throws.
 */
export async function saveModel(model: Model, sink: FileSink, options: SaveOptions = {}): Promise<void> {
  const [adapter] = model.view.adapters
  if (adapter) {
    throw new PeftError(
      "E_UNMERGED",
      `[models] the model has the adapter "${adapter.name}", which a model file cannot hold; merge it, or save it by itself`,
    )
  }
  const { overlays } = model.view
  const valueAt = (path: string, base: Tensor | Weight): Values => valuesOf(model, overlays.get(path) ?? base)
  const replaced = [...model.params].some(([path, base]) => storedOf(base) && overlays.has(path))
  await writeModel(model, valueAt, sink, options, replaced ? undefined : (_, base) => storedOf(base))
}

/** How files hold a value that is not dense. */
export function storedOf(value: Tensor | Weight): StoredWeight | undefined {
  return isTensor(value) ? undefined : value.stored
}

/** f32 values of a parameter: all of them, or blocks of rows that follow each other. */
export type Values = Promise<Float32Array> | AsyncIterable<Float32Array>

/** Elements that leave the device at a time. */
const blockElements = 2 ** 20

/** What a parameter holds, in blocks where it is a matrix. */
export function valuesOf({ backend }: Model, value: Tensor | Weight): Values {
  return isTensor(value) ? hostValues(engineOf(backend), value) : rowBlocks(engineOf(backend), value)
}

async function* rowBlocks(engine: Engine, weight: Weight): AsyncGenerator<Float32Array> {
  const columns = weight.shape[1]
  const step = Math.min(rowsPerPart(engine.backend, columns, "f32"), Math.max(1, Math.floor(blockElements / columns)))
  for (const part of weight.parts)
    for (let { start } = part; start < part.end; start += step)
      yield await computed(engine, () => weight.rows({ start, end: Math.min(part.end, start + step) }))
}

async function whole(values: Values, length: number): Promise<Float32Array> {
  if (!(Symbol.asyncIterator in values)) return values
  const all = new Float32Array(length)
  let at = 0
  for await (const block of values) {
    all.set(block, at)
    at += block.length
  }
  return all
}

/** Writes a folder whose values are produced one after the other, as f32 in the shapes of the definition, or where `packed` says so as they are stored. */
export async function writeModel(
  { config, sites, params }: ModelDefinition,
  valueAt: (path: string, base: Tensor | Weight) => Values,
  sink: FileSink,
  options: SaveOptions,
  packed: (path: string, base: Tensor | Weight) => StoredWeight | undefined = () => undefined,
): Promise<void> {
  const { dtype, name } = stored[options.dtype ?? "f32"]
  const key = "torch_dtype" in config && !("dtype" in config) ? "torch_dtype" : "dtype"
  if (options.copyFrom) await copyFiles(options.copyFrom, sink)
  const { quantization_config: _, ...plain } = config
  const kept = [...params].some(([path, base]) => packed(path, base)) ? config : plain
  await writeText(sink, configFile, configText({ ...kept, [key]: name }))
  const turnedRound = new Set([...sites.values()].filter((site) => site.fanInFanOut).map((site) => site.param))
  const tensors = [...params].flatMap(([path, base]): (readonly [string, LazyTensorInput])[] => {
    const several = packed(path, base)
    if (several) return [...several].map(([name, one]) => [path.replace(/weight$/, name), one])
    const [rows, columns] = base.shape as readonly [number, number]
    const shape = turnedRound.has(path) ? [columns, rows] : base.shape
    async function* data(): AsyncGenerator<TensorArray> {
      const values = valueAt(path, base)
      if (turnedRound.has(path)) yield fromFloat32(dtype, turned(await whole(values, rows * columns), rows, columns))
      else if (Symbol.asyncIterator in values) for await (const block of values) yield fromFloat32(dtype, block)
      else yield fromFloat32(dtype, await values)
    }
    return [[path, { dtype, shape, data }]]
  })
  await writeShards(sink, tensors, options.maxShardBytes ?? defaultShardBytes)
}

/** config.json; transformers wants a float of this number, which JavaScript would write as a whole one. */
function configText(config: Readonly<Record<string, unknown>>): string {
  const text = JSON.stringify(config, null, 2).replace(/("llm_int8_threshold": -?\d+)(?=,?\n)/, "$1.0")
  return `${text}\n`
}

const chunk = 1 << 22

async function copyFiles(from: FileSource, sink: FileSink): Promise<void> {
  for (const path of copied) {
    if (!(await from.has(path))) continue
    const file = await from.open(path)
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < file.size; at += chunk) yield await file.read(at, Math.min(file.size, at + chunk))
    }
    await sink.write(path, pieces())
  }
}
