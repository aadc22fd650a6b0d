/**
 * One short training run on whatever backend it is given, equal in everything else: model, data, seed, dropout. Runs in Node and in pages;
 * what it takes and gives is plain data, so that it can cross from one to the other. Knows no backend.
 */
import { adapt, type Backend } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { initCausalLM } from "@peftjs/models"
import { memoryFiles } from "@peftjs/safetensors"
import { jsonl, train } from "@peftjs/train"

export const steps = 20
/** Where the first part of a run ends, with a checkpoint. */
export const half = 10

/** A run's checkpoint: paths and bytes. */
export type Checkpoint = readonly (readonly [path: string, bytes: readonly number[]])[]

export interface Curve {
  readonly losses: readonly number[]
  readonly checkpoint: Checkpoint
}

const config = {
  ...{ model_type: "llama", vocab_size: 61, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8, hidden_act: "silu", rms_norm_eps: 1e-5 },
  ...{ max_position_embeddings: 64, rope_theta: 10000, tie_word_embeddings: true, initializer_range: 0.2 },
}

/** Sequences of unequal length, so that rows are padded; each id follows from the last two. */
const rows = Array.from({ length: 12 }, (_, row) => {
  const ids = [row + 1, 3 * row + 2]
  while (ids.length < 9 + (row % 4)) ids.push(((ids.at(-1) as number) * 2 + (ids.at(-2) as number) + 1) % 61)
  return { input_ids: ids }
})

/** All steps, with the checkpoint from the middle; or, from such a checkpoint, those that are left. */
export async function curve(backend: Backend, part: "whole" | Checkpoint, dropout = 0.3): Promise<Curve> {
  const base = initCausalLM(config, { backend, seed: 5 })
  const model = adapt(base, lora({ r: 4, alpha: 8, dropout }), { targetModules: "all-linear", seed: 6 })
  const files = memoryFiles(part === "whole" ? [] : part.map(([path, bytes]) => [path, Uint8Array.from(bytes)]))
  let checkpoint: Checkpoint = []
  const losses: number[] = []
  await train(model, jsonl(rows), {
    ...{ maxSteps: steps, batchSize: 4, learningRate: 1e-2, seed: 7, warmupSteps: 3 },
    ...{ checkpoints: files, saveSteps: half, resume: part !== "whole" },
    onStep: ({ loss }) => {
      losses.push(loss)
    },
    onSave(step) {
      if (step === half) checkpoint = [...files.files].map(([path, bytes]) => [path, [...bytes]])
    },
  })
  return { losses, checkpoint }
}
