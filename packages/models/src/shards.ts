/** Weights in one file, or in shards with an index where one would be too large, named as transformers names them. Knows no model. */
import { type FileSink, type LazyTensorInput, tensorBytes, writeSafetensors, writeText } from "@peftjs/safetensors"

/** What transformers takes. */
export const defaultShardBytes = 5e9

/** Writes model.safetensors, or model-00001-of-0000N.safetensors … and last their index. Each tensor is made when it is written. */
export async function writeShards(
  sink: FileSink,
  tensors: readonly (readonly [string, LazyTensorInput])[],
  maxBytes: number,
): Promise<void> {
  const shards: (readonly [string, LazyTensorInput])[][] = [[]]
  let room = maxBytes
  let total = 0
  for (const entry of tensors) {
    const bytes = tensorBytes(entry[1].dtype, entry[1].shape)
    const last = shards.at(-1) as (typeof shards)[number]
    if (bytes > room && last.length > 0) {
      shards.push([entry])
      room = maxBytes - bytes
    } else {
      last.push(entry)
      room -= bytes
    }
    total += bytes
  }
  const nameOf = (i: number): string => {
    const [number, count] = [i + 1, shards.length].map((n) => String(n).padStart(5, "0"))
    return shards.length === 1 ? "model.safetensors" : `model-${number}-of-${count}.safetensors`
  }
  for (const [i, shard] of shards.entries()) await writeSafetensors(sink, nameOf(i), shard, { format: "pt" })
  if (shards.length === 1) return
  const map = shards.flatMap((shard, i) => shard.map(([name]): [string, string] => [name, nameOf(i)]))
  const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(map) }
  await writeText(sink, "model.safetensors.index.json", `${JSON.stringify(index, null, 2)}\n`)
}
