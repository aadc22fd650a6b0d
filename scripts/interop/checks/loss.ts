/** The response loss of SmolLM2 on the first 60 rows of GSM8K's test file, by `peft eval` and by PyTorch. */
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { adapterOption } from "./logits.ts"

export type Evaluation = { loss: number; perplexity: number; tokens: number; response_loss: number }

/** `peft eval` with nothing but its fixed options: rows are cut at its default length, 256 tokens. */
export async function evaluate(context: Context, adapter: string | null): Promise<Evaluation> {
  const data = join(context.shared, "data/gsm8k/test.jsonl")
  return JSON.parse(
    await context.peft(
      "eval",
      "--model",
      context.model,
      ...adapterOption(adapter),
      "--data",
      data,
      "--max-eval-samples",
      "60",
      "--json",
    ),
  ) as Evaluation
}

/** Expects PyTorch to find the same response loss; float32 sums of 6,852 tokens in another order move it by less than 1e-4. */
export async function sameLoss(context: Context, adapter: string, ours: Evaluation): Promise<void> {
  const data = join(context.shared, "data/gsm8k/test.jsonl")
  const losses = await context.python<Record<string, number>>("evaluate.py", context.model, data, "60", "256", adapter)
  const theirs = losses[adapter] ?? Number.NaN
  context.expect(
    "PyTorch finds the same response loss",
    Math.abs(ours.response_loss - theirs) <= 2e-3,
    `${ours.response_loss.toFixed(5)} here, ${theirs.toFixed(5)} there`,
  )
}
