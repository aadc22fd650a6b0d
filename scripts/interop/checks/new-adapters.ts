/** Every spelling of a new LoRA adapter this project can train must load in PEFT and mean the same there. */
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { compareLogits } from "./logits.ts"
import { writeTrainingRows } from "./rows.ts"

/** Options of `peft train` by case. */
const cases: Record<string, string[]> = {
  "all-linear": ["--target-modules", "all-linear"],
  rslora: ["--target-modules", "q_proj,down_proj", "--method-option", "use_rslora=true"],
  "rank-pattern": [
    "--target-modules",
    "all-linear",
    "--method-option",
    'rank_pattern={"q_proj":3,"layers.1.mlp.up_proj":6}',
  ],
  "alpha-pattern": [
    "--target-modules",
    "q_proj,v_proj,o_proj",
    "--method-option",
    'alpha_pattern={"o_proj":32,".*1.*v_proj":2}',
  ],
  gaussian: ["--target-modules", "q_proj,v_proj", "--method-option", "init_lora_weights=gaussian"],
  "random-init": ["--target-modules", "q_proj,v_proj", "--method-option", "init_lora_weights=false"],
  regex: ["--target-modules", String.raw`.*layers\.1\.(self_attn\.[kv]_proj|mlp\.up_proj)`],
  dropout: ["--target-modules", "gate_proj,up_proj", "--dropout", "0.2"],
  "lm-head": ["--target-modules", "lm_head,k_proj"],
}

export async function newAdapters(context: Context): Promise<void> {
  const base = join(context.shared, "fixtures/models/llama")
  const data = await writeTrainingRows(context)
  const inputs = await context.python(
    "tensors.py",
    join(base, "inputs.safetensors"),
    "right.input_ids",
    "right.attention_mask",
  )
  const { "right.input_ids": input_ids, "right.attention_mask": attention_mask } = inputs as Record<string, number[][]>
  const input = context.write("input.json", { input_ids, attention_mask })
  const trained = []
  for (const [name, options] of Object.entries(cases)) {
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
