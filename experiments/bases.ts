/**
 * The models that experiments begin with, small enough for sweeps: one pretrained here from a seed, and one with random weights.
 * WebAssembly kernels on every machine, so that a system's BLAS does not decide the numbers. Must not know methods of fine-tuning.
 */
import { existsSync } from "node:fs"
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import { type Backend, detachOverlays, type Model, unfreeze } from "@peftjs/core"
import { initCausalLM } from "@peftjs/models"
import { loadCausalLM, loadTokenizer, saveModel } from "@peftjs/models/node"
import { type Data, jsonl, train } from "@peftjs/train"
import { lines, pretrainingRows } from "../scripts/demo/make-text.ts"

export const root: string = join(import.meta.dirname, "..")
const demo = join(root, "demo", "model")

export const makeBackend = (): Promise<Backend> => cpu({ blas: "off" })

/** 2 layers of width 64, the 896 tokens of the model in demo/. */
const small = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 896 },
  ...{ hidden_size: 64, intermediate_size: 176, num_hidden_layers: 2, head_dim: 16, hidden_act: "silu" },
  ...{ num_attention_heads: 4, num_key_value_heads: 4, attention_bias: false, mlp_bias: false, attention_dropout: 0 },
  ...{ max_position_embeddings: 256, rope_parameters: { rope_theta: 10000, rope_type: "default" } },
  ...{ rms_norm_eps: 1e-5, initializer_range: 0.05, bos_token_id: null, eos_token_id: 2, pad_token_id: 0 },
}

/** Random weights; with a head of its own unless it is tied to the embedding. */
export async function untrained(backend: Backend, seed: number, tied = false): Promise<Model> {
  return initCausalLM(
    { ...small, tie_word_embeddings: tied },
    { backend, seed, name: "small", tokenizer: await loadTokenizer(demo) },
  )
}

/** Rows of the grammar that the model in demo/ was pretrained on as well: general text, what a model knew before. */
export function generalText(rows: number, seed: number): Data {
  return jsonl(lines(pretrainingRows(rows, seed)), "general text")
}

/** The model after `steps` steps on general text. Kept in out/, where a second run finds it. */
export async function pretrained(backend: Backend, seed: number, steps: number): Promise<Model> {
  const folder = join(root, "out", "experiments", `small-${seed}-${steps}`)
  if (!existsSync(join(folder, "model.safetensors"))) {
    const base = await untrained(backend, seed, true)
    const model = unfreeze(base)
    await train(model, generalText(steps * 16, seed), {
      ...{ maxSteps: steps, batchSize: 16, maxLength: 64, lossMask: "full", seed },
      ...{ learningRate: 5e-3, scheduler: "cosine", warmupSteps: Math.ceil(steps / 20) },
    })
    await saveModel(model, folder, { dtype: "f32", copyFrom: demo })
    detachOverlays(model)
  }
  return loadCausalLM(folder, { backend })
}
