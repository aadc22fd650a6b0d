/** Every spelling of a new LoRA adapter this project can train must load in PEFT and mean the same there. */
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { compareLogits } from "./logits.ts"
import { writeTrainingRows } from "./rows.ts"

const option = (...pairs: string[]): string[] => pairs.flatMap((pair) => ["--method-option", pair])
const targets = (names: string): string[] => ["--target-modules", names]
const dora = option("use_dora=true")

/** Base model, and options of `peft train`, by case. */
const cases: Record<string, [base: string, options: string[]]> = {
  "all-linear": ["llama", targets("all-linear")],
  rslora: ["llama", [...targets("q_proj,down_proj"), ...option("use_rslora=true")]],
  "rank-pattern": [
    "llama",
    [...targets("all-linear"), ...option('rank_pattern={"q_proj":3,"layers.1.mlp.up_proj":6}')],
  ],
  "alpha-pattern": [
    "llama",
    [...targets("q_proj,v_proj,o_proj"), ...option('alpha_pattern={"o_proj":32,".*1.*v_proj":2}')],
  ],
  gaussian: ["llama", [...targets("q_proj,v_proj"), ...option("init_lora_weights=gaussian")]],
  "random-init": ["llama", [...targets("q_proj,v_proj"), ...option("init_lora_weights=false")]],
  regex: ["llama", targets(String.raw`.*layers\.1\.(self_attn\.[kv]_proj|mlp\.up_proj)`)],
  dropout: ["llama", [...targets("gate_proj,up_proj"), "--dropout", "0.2"]],
  "lm-head": ["llama", targets("lm_head,k_proj")],
  exclude: ["llama", [...targets("all-linear"), "--exclude-modules", "down_proj,layers.0.self_attn.q_proj"]],
  layers: ["llama", [...targets("q_proj,o_proj"), "--layers-to-transform", "1"]],
  "layers-pattern": ["gpt2", [...targets("c_attn"), "--layers-to-transform", "0", "--layers-pattern", "h"]],
  embedding: ["llama", targets("embed_tokens,q_proj")],
  "tied-embedding": ["llama-tied", targets("embed_tokens,q_proj")],
  dora: ["llama", [...targets("all-linear"), ...dora]],
  "dora-dropout": ["llama", [...targets("q_proj,down_proj"), ...dora, "--dropout", "0.1"]],
  "dora-rslora-random": [
    "llama",
    [...targets("q_proj"), ...dora, ...option("use_rslora=true", "init_lora_weights=false")],
  ],
  "dora-embedding": ["llama", [...targets("embed_tokens,v_proj"), ...dora]],
  "dora-conv1d": ["gpt2", [...targets("c_attn,c_proj"), ...dora]],
  "lora-bias": ["llama", [...targets("q_proj,v_proj"), ...option("lora_bias=true")]],
  conv1d: ["gpt2", targets("all-linear")],
  "conv1d-embedding": ["gpt2", targets("wte,c_fc")],
  "bias-all": ["gpt2", [...targets("c_attn"), "--bias", "all"]],
  "bias-lora-only": ["gpt2", [...targets("c_attn,c_fc"), "--bias", "lora_only"]],
  "modules-to-save": ["llama", [...targets("q_proj"), "--modules-to-save", "lm_head,norm"]],
  "modules-to-save-tied": ["llama-tied", [...targets("v_proj"), "--modules-to-save", "embed_tokens"]],
  "kept-tied": ["llama-tied", [...targets("v_proj"), "--modules-to-save", "embed_tokens", "--ensure-weight-tying"]],
  tokens: ["llama", [...targets("v_proj"), "--trainable-token-indices", "3,17,64"]],
  "tokens-by-module": [
    "llama",
    [...targets("v_proj"), "--trainable-token-indices", '{"embed_tokens":[3,64],"lm_head":[64,3,10]}'],
  ],
  "tokens-tied": ["llama-tied", [...targets("v_proj"), "--trainable-token-indices", "3,17,64"]],
  "tokens-conv1d": ["gpt2", [...targets("c_attn"), "--trainable-token-indices", "3,17,64"]],
}

export async function newAdapters(context: Context): Promise<void> {
  const models = join(context.shared, "fixtures/models")
  const data = await writeTrainingRows(context)
  const inputs = await context.python(
    "tensors.py",
    join(models, "llama/inputs.safetensors"),
    "right.input_ids",
    "right.attention_mask",
  )
  const { "right.input_ids": input_ids, "right.attention_mask": attention_mask } = inputs as Record<string, number[][]>
  const input = context.write("input.json", { input_ids, attention_mask })
  const trained = []
  for (const [name, [architecture, options]] of Object.entries(cases)) {
    const base = join(models, architecture)
    const output = join(context.folder, name)
    const common = [
      "--r",
      "4",
      "--alpha",
      "8",
      "--max-steps",
      "10",
      "--batch-size",
      "4",
      "--learning-rate",
      "1e-2",
      "--seed",
      "7",
    ]
    await context.peft(
      "train",
      "--model",
      base,
      "--data",
      data,
      "--output",
      output,
      "--method",
      "lora",
      ...common,
      ...options,
    )
    trained.push({ name, base, adapter: join(output, "adapter"), input, atMost: 1e-4 })
  }
  await compareLogits(context, trained)
}
