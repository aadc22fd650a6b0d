/** Trains SmolLM2 on GSM8K with the `peft` command; PyTorch + PEFT must load the result and say the same of it. About ten minutes. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { compareLogits } from "./logits.ts"
import { evaluate, sameLoss } from "./loss.ts"

/** Sixty steps from the start that PyTorch and PEFT measured as 1.499 to where they came to 0.940. */
export const recipe: string =
  "--method lora --target-modules all-linear --r 8 --alpha 16 --max-steps 60 --batch-size 4 --max-length 256 " +
  "--learning-rate 5e-4 --lr-scheduler linear --warmup-steps 0 --weight-decay 0 --loss-mask completion --no-shuffle"

export async function realRun(context: Context): Promise<void> {
  const { model, shared, folder, expect } = context
  const output = join(folder, "out")
  const adapter = join(output, "adapter")
  const started = performance.now()
  await context.peft(
    "train",
    "--model",
    model,
    "--data",
    join(shared, "data/gsm8k/train.jsonl"),
    ...recipe.split(" "),
    "--output",
    output,
  )
  const steps = readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
  const seconds = (performance.now() - started) / 1000
  const mean = (from: number, to: number): number =>
    steps.slice(from, to).reduce((sum, step) => sum + step.loss, 0) / (to - from)
  expect(
    "60 steps trained",
    steps.length === 60,
    `${seconds.toFixed(0)} s, loss ${mean(0, 5).toFixed(4)} over the first 5, ${mean(55, 60).toFixed(4)} over the last 5 (PEFT 1.3595, 0.8049)`,
  )
  const files = readdirSync(adapter).sort().join(" ")
  expect(
    "the adapter folder holds the PEFT files alone",
    /^(README\.md )?adapter_config\.json adapter_model\.safetensors$/.test(files),
    files,
  )

  const before = await evaluate(context, null)
  const after = await evaluate(context, adapter)
  expect(
    "response loss before is 1.499 ± 0.02",
    Math.abs(before.response_loss - 1.499) <= 0.02,
    before.response_loss.toFixed(4),
  )
  expect("response loss after is below 0.99", after.response_loss < 0.99, after.response_loss.toFixed(4))
  await sameLoss(context, adapter, after)

  const text = await context.python("tokenise.py", model, join(shared, "data/general.txt"), "--text", "500")
  const input = context.write("text.json", text)
  await compareLogits(context, [
    { name: "the trained adapter on natural text", base: model, adapter, input, atMost: 3e-3 },
  ])
}
