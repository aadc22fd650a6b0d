/**
 * The tensors of a model folder as one source, whether it holds one file or shards with an index. Knows the two file
 * names of Hugging Face folders and the index format, nothing about models.
 */
import { type FileSource, readText } from "./byte-source.ts"
import { fail, SafetensorsError } from "./error.ts"
import type { TensorInfo } from "./header.ts"
import { findTensor, openSafetensors, type TensorSource } from "./reader.ts"

/** File names of a model folder; the defaults are transformers'. */
export interface ModelNames {
  /** Default "model.safetensors". Taken where both exist, as transformers does. */
  readonly single?: string
  /** Default "model.safetensors.index.json". */
  readonly index?: string
}

/**
 * Opens all weights of a folder. Headers are read at once, tensors when asked for. With an index, the index decides
 * which tensors there are; `metadata` is that of the shards, merged.
 *
 * @throws E_FILE_NOT_FOUND if there is neither file, E_SHARD_MISSING if a shard named by the index is not there,
 * E_SAFETENSORS_INDEX if the index is malformed or names a tensor its shard does not have, and what openSafetensors throws
 */
export async function openModel(files: FileSource, names: ModelNames = {}): Promise<TensorSource> {
  const { single = "model.safetensors", index = "model.safetensors.index.json" } = names
  if (await files.has(single)) return openSafetensors(await files.open(single))
  if (!(await files.has(index)))
    fail("E_FILE_NOT_FOUND", `${files.name} has neither ${single} nor ${index}; is it a model folder with safetensors?`)
  const weightMap = parseIndex(await readText(files, index), `${files.name}/${index}`)
  const shards = new Map<string, TensorSource>()
  for (const path of new Set(weightMap.values())) shards.set(path, await openShard(files, path, index))
  const located = new Map<string, { info: TensorInfo; shard: TensorSource }>()
  for (const [name, path] of weightMap) {
    const shard = shards.get(path) as TensorSource
    const info = shard.tensors.get(name)
    if (info === undefined)
      fail("E_SAFETENSORS_INDEX", `${index} says ${path} has ${JSON.stringify(name)}, but it has not; fetch both again`)
    located.set(name, { info, shard })
  }
  const shardOf = (name: string): TensorSource => findTensor(located, name, files.name).shard
  return {
    name: files.name,
    metadata: Object.assign({}, ...[...shards.values()].map((shard) => shard.metadata)),
    tensors: new Map([...located].map(([name, { info }]) => [name, info])),
    read: async (name, into) => shardOf(name).read(name, into),
    readRows: async (name, start, end, into) => shardOf(name).readRows(name, start, end, into),
  }
}

function parseIndex(text: string, file: string): Map<string, string> {
  let map: unknown
  try {
    map = (JSON.parse(text) as { weight_map?: unknown } | null)?.weight_map
  } catch (error) {
    fail("E_SAFETENSORS_INDEX", `${file} is not JSON: ${(error as Error).message}`, error)
  }
  if (typeof map !== "object" || map === null || !Object.values(map).every((path) => typeof path === "string"))
    fail("E_SAFETENSORS_INDEX", `${file} has no weight_map from tensor names to file names`)
  return new Map(Object.entries(map as Record<string, string>))
}

async function openShard(files: FileSource, path: string, index: string): Promise<TensorSource> {
  try {
    return await openSafetensors(await files.open(path))
  } catch (error) {
    if (error instanceof SafetensorsError && error.code === "E_FILE_NOT_FOUND")
      fail("E_SHARD_MISSING", `${index} names ${path}, which is not in ${files.name}; fetch it too`, error)
    throw error
  }
}
