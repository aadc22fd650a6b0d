/**
 * The run of real-run, over the base in 4 bits and with the rank that QLoRA's paper trains with, at the same scale: it must come as far as LoRA
 * of rank 8 on the bf16 base did in PyTorch + PEFT, within 3 %, and PEFT must load the adapter over the base that bitsandbytes quantises. At equal
 * rank it does not come as far, here or there: NF4 costs a model this small more than the adapter wins back in 60 steps (rank 8: 1.010, in PyTorch
 * + PEFT + bitsandbytes 1.009, on bf16 0.940; rank 64: 0.906, on bf16 0.859). Six minutes on two cores.
 */
import { join } from "node:path"
import { type Context, readJson } from "../programs.ts"
import { compareLogits } from "./logits.ts"
import { evaluate } from "./loss.ts"
import { recipe } from "./real-run.ts"
import { lossesIn } from "./trained.ts"

type Recorded = { response_loss_first_60_test_rows: { adapter: number } }

export async function qloraRun(context: Context): Promise<void> {
  const { model, shared, folder, expect, peft } = context
  const output = join(folder, "out")
  const adapter = join(output, "adapter")
  const data = join(shared, "data/gsm8k/train.jsonl")
  const method = recipe
    .replace("--method lora", "--method qlora")
    .replace("--r 8 --alpha 16", "--r 64 --alpha 128")
    .split(" ")
  const started = performance.now()
  await peft("train", "--model", model, "--data", data, ...method, "--output", output)
  const losses = lossesIn(output)
  const mean = (of: readonly number[]): string => (of.reduce((sum, loss) => sum + loss, 0) / of.length).toFixed(4)
  expect(
    "60 steps trained",
    losses.length === 60,
    `${((performance.now() - started) / 1000).toFixed(0)} s, loss ${mean(losses.slice(0, 5))} over the first 5, ${mean(losses.slice(-5))} over the last 5`,
  )

  const quantised = join(folder, "base")
  await peft("quantize", "--model", model, "--output", quantised, "--type", "nf4", "--double-quant")
  const before = await evaluate({ ...context, model: quantised }, null)
  const after = await evaluate({ ...context, model: quantised }, adapter)
  const { adapter: wanted } = readJson<Recorded>(
    shared,
    "fixtures/smollm2-lora/expected.json",
  ).response_loss_first_60_test_rows
  const ratio = after.response_loss / wanted
  expect(
    "response loss is at most 3 % above that of LoRA of rank 8 on the bf16 base",
    ratio <= 1.03,
    `${before.response_loss.toFixed(4)} → ${after.response_loss.toFixed(4)}, LoRA in PEFT ${wanted}, ratio ${ratio.toFixed(4)}`,
  )

  const input = context.write(
    "text.json",
    await context.python("tokenise.py", model, join(shared, "data/general.txt"), "--text", "400"),
  )
  await compareLogits(context, [
    { name: "the adapter over the base in 4 bits", base: quantised, adapter, input, atMost: 3e-3 },
    { name: "the adapter over the bf16 base", base: model, adapter, input, atMost: 3e-3 },
  ])
}
