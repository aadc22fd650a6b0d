/**
 * Rebuilds everything in demo/: texts from the grammar, the tokenizer learnt from them, and the model, pre-trained by `peft train`.
 * `npx tsx scripts/demo/pretrain.ts [options of peft train]`. It works in out/demo and touches demo/ when all is done.
 */
import { spawnSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import { loadCausalLM, saveModel } from "@peftjs/models/node"
import { lines, pirateRows, pretrainingRows } from "./make-text.ts"
import { tokenizerFiles } from "./make-tokenizer.ts"

const root = join(import.meta.dirname, "..", "..")
const work = (...names: string[]): string => join(root, "out", "demo", ...names)
const vocabulary = 896
const config = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: vocabulary, tie_word_embeddings: true },
  ...{ hidden_size: 128, intermediate_size: 448, num_hidden_layers: 4, head_dim: 32, hidden_act: "silu" },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, attention_bias: false, mlp_bias: false, attention_dropout: 0 },
  ...{ max_position_embeddings: 256, rope_parameters: { rope_theta: 10000, rope_type: "default" } },
  ...{ rms_norm_eps: 1e-5, initializer_range: 0.05, bos_token_id: null, eos_token_id: 2, pad_token_id: 0 },
  ...{ use_cache: true, dtype: "bfloat16" },
}

const rows = pretrainingRows(12_000)
const words = rows.flatMap((row) => ("text" in row ? [row.text] : row.messages.map(({ content }) => content)))
const start = tokenizerFiles(["user", "assistant", ...words].join("\n"), vocabulary)
mkdirSync(work("init"), { recursive: true })
writeFileSync(work("train.jsonl"), lines(rows))
writeFileSync(work("unseen.jsonl"), lines(pretrainingRows(200, 99)))
for (const [name, content] of Object.entries({ ...start, "config.json": JSON.stringify(config, null, 2) }))
  writeFileSync(work("init", name), content)

const what = ["--init-config", work("init", "config.json"), "--data", work("train.jsonl"), "--output", work("run")]
const options = ["--method", "full", "--loss-mask", "full", "--batch-size", "16", "--max-length", "64"]
const pace = ["--max-steps", "560", "--learning-rate", "3e-3", "--lr-scheduler", "cosine", "--warmup-steps", "20"]
peft("train", ...what, "--overwrite", ...options, ...pace, "--weight-decay", "0.01", ...process.argv.slice(2))
peft("eval", "--model", work("run", "model"), "--data", work("unseen.jsonl"), "--loss-mask", "full")

const model = await loadCausalLM(work("run", "model"), { backend: await cpu() })
await saveModel(model, join(root, "demo", "model"), { dtype: "bf16", copyFrom: work("run", "model") })
const { train, heldOut } = pirateRows()
writeFileSync(join(root, "demo", "train.jsonl"), lines(train))
writeFileSync(join(root, "demo", "held-out.jsonl"), lines(heldOut))

/** Runs the command; ends this program with its exit code if it fails. */
function peft(...args: readonly string[]): void {
  const bin = join(root, "packages", "cli", "bin", "peft.js")
  const { status } = spawnSync(process.execPath, [bin, ...args], { stdio: "inherit" })
  if (status !== 0) process.exit(status ?? 1)
}
