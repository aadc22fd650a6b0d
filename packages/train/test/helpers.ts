/** The tiny Llama of the fixtures with LoRA on it, and the recorded micro-batches as rows. */
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import { adapt, type Backend, loadAdapter, type Model, trainables } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models"
import { type MemoryFiles, memoryFiles, parseSafetensors } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { type Data, jsonl } from "../src/index.ts"

export const fixture = (path: string): string => fileURLToPath(new URL(`../../../fixtures/${path}`, import.meta.url))

// biome-ignore lint/suspicious/noExplicitAny: recorded files have many shapes
export const readJson = (path: string): any => JSON.parse(readFileSync(fixture(path), "utf8"))

export async function tinyLlama(backend?: Backend): Promise<Model> {
  return loadCausalLM(nodeFiles(fixture("models/llama")), { backend: backend ?? (await cpu()) })
}

export async function withAdapter(path: string, backend?: Backend): Promise<Model> {
  const { model } = await loadAdapter(await tinyLlama(backend), nodeFiles(fixture(path)), { methods: [lora] })
  return model
}

/** A fresh LoRA with dropout, equal for equal seeds. */
export async function withLora(options: { backend?: Backend; dropout?: number; seed?: number } = {}): Promise<Model> {
  const { backend, dropout = 0, seed = 0 } = options
  return adapt(await tinyLlama(backend), lora({ r: 4, alpha: 8, dropout }), { targetModules: "all-linear", seed })
}

/** The 40 recorded micro-batches as 80 rows, padding and all. */
export function recordedRows(): Data {
  const { tensors } = parseSafetensors(readFileSync(fixture("training/batches.safetensors")))
  const numbers = (name: string): number[] =>
    Array.from(tensors.get(name)?.data as BigInt64Array, (value) => Number(value))
  const [ids, mask, labels] = [numbers("input_ids"), numbers("attention_mask"), numbers("labels")]
  const rows = Array.from({ length: ids.length / 12 }, (_, i) => ({
    input_ids: ids.slice(i * 12, i * 12 + 12),
    attention_mask: mask.slice(i * 12, i * 12 + 12),
    labels: labels.slice(i * 12, i * 12 + 12),
  }))
  return jsonl(rows, "recorded")
}

/** Every trainable value, by name. */
export async function valuesOf(model: Model): Promise<Map<string, Float32Array>> {
  const values = new Map<string, Float32Array>()
  for (const { name, tensor } of trainables(model)) values.set(name, (await tensor.data()) as Float32Array)
  return values
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  let largest = 0
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] as number) - (b[i] as number))
    largest = difference > largest || Number.isNaN(difference) ? difference : largest
  }
  return largest
}

/** A folder in memory that fails at its n-th write, as a process that dies there. */
export function store(diesAt: number = Number.POSITIVE_INFINITY, from?: MemoryFiles): MemoryFiles {
  const memory = memoryFiles(from?.files ?? [])
  let writes = 0
  return {
    ...memory,
    write: async (path, chunks) => {
      if (++writes >= diesAt) throw new Error("killed")
      await memory.write(path, chunks)
    },
  }
}
