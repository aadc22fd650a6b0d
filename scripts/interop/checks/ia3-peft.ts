/** A method by somebody else, examples/third-party-adapter: its adapters, trained with the `peft` command, must load in PEFT and mean the same there. */
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { repository } from "../setup.ts"
import { compareLogits } from "./logits.ts"
import { writeTrainingRows } from "./rows.ts"

/** Base model, targets, and which of these are feed-forward modules. */
const cases = {
  llama: ["k_proj,v_proj,down_proj", '["down_proj"]'],
  gpt2: ["c_attn,mlp.c_proj", '["mlp.c_proj"]'],
} as const

export async function ia3Peft(context: Context): Promise<void> {
  const models = join(context.shared, "fixtures/models")
  const data = await writeTrainingRows(context)
  const ids = await context.python<Record<string, number[][]>>(
    "tensors.py",
    ...[join(models, "llama/inputs.safetensors"), "right.input_ids", "right.attention_mask"],
  )
  const input = context.write("input.json", {
    input_ids: ids["right.input_ids"],
    attention_mask: ids["right.attention_mask"],
  })
  const method = join(repository, "examples/third-party-adapter")
  const steps = "--max-steps 10 --batch-size 4 --learning-rate 5e-2 --seed 7".split(" ")
  for (const [architecture, [targets, feedForward]] of Object.entries(cases)) {
    const base = join(models, architecture)
    const output = join(context.folder, architecture)
    const own = [
      "--method",
      method,
      "--target-modules",
      targets,
      "--method-option",
      `feedforward_modules=${feedForward}`,
    ]
    await context.peft("train", "--model", base, "--data", data, "--output", output, ...own, ...steps)
    const adapter = join(output, "adapter")
    await compareLogits({ ...context, peft: (...args) => context.peft(...args, "--method", method) }, [
      { name: `IA3 on ${architecture}`, base, adapter, input, atMost: 1e-4 },
    ])
  }
}
