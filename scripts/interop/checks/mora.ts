/**
 * MoRA trained here on SmolLM2: without rotation its conversion is a LoRA that PEFT loads with the same logits; with rotation the merged
 * model is for transformers what it is here. Few steps, at a learning rate that makes them count.
 */
import { join } from "node:path"
import { type Context, readJson } from "../programs.ts"
import { compareLogits } from "./logits.ts"

type Trained = { trainable: number; steps: number; seconds: number }

const recipe =
  "--r 8 --max-steps 3 --batch-size 2 --max-length 96 --learning-rate 2e-3 --lr-scheduler constant --no-shuffle"

export async function mora(context: Context): Promise<void> {
  const { model, shared, folder, expect, peft } = context
  const data = join(shared, "data/gsm8k/train.jsonl")
  const text = await context.python("tokenise.py", model, join(shared, "data/general.txt"), "--text", "64")
  const input = context.write("text.json", text)
  const onModel = (adapter: string): string[] => ["--model", model, "--adapter", adapter]

  const { trainable: ofLora } = JSON.parse(
    await peft(...["train", "--model", model, "--method", "lora", "--r", "8", "--dry-run", "--json"]),
  ) as Trained
  const adapters: Record<string, string> = {}
  for (const type of ["sharing", "rotation"]) {
    const output = join(folder, type)
    const method = ["--method", "mora", "--method-option", `type=${type}`, ...recipe.split(" ")]
    const { trainable, steps, seconds } = JSON.parse(
      await peft("train", "--model", model, "--data", data, "--output", output, ...method, "--json"),
    ) as Trained
    const share = trainable / ofLora
    expect(
      `${type} has LoRA's number of parameters`,
      Math.abs(share - 1) <= 0.01 && steps === 3,
      `${trainable} to ${ofLora}, ${share.toFixed(4)}; 3 steps in ${seconds.toFixed(0)} s`,
    )
    adapters[type] = join(output, "adapter")
  }

  const lora = join(folder, "lora")
  const { error, layers } = JSON.parse(
    await peft("convert", ...onModel(adapters.sharing as string), "--to", "lora", "--output", lora, "--json"),
  ) as { error: number; layers: unknown[] }
  const { r } = readJson<{ r: number }>(lora, "adapter_config.json")
  expect("sharing is a LoRA exactly", error === 0 && layers.length === 210, `${layers.length} layers, r ${r}`)
  await compareLogits(context, [{ name: "sharing as LoRA", base: model, adapter: lora, input, atMost: 2e-3 }])
  await sameLogits(context, "sharing as LoRA", adapters.sharing as string, input)

  const merged = join(folder, "merged")
  await peft("merge", ...onModel(adapters.rotation as string), "--output", merged, "--dtype", "f32")
  const bare = join(folder, "base.safetensors")
  const moved = join(folder, "rotation.safetensors")
  await peft("logits", "--model", model, "--input", input, "--output", bare)
  await peft("logits", ...onModel(adapters.rotation as string), "--input", input, "--output", moved)
  const effect = await context.python<number>("tensors.py", bare, "--against", moved, "logits", "logits")
  expect("rotation does something", effect > 0.02, `moves the logits by ${effect.toFixed(4)}`)
  await compareLogits(context, [{ name: "rotation merged", base: merged, adapter: null, input, atMost: 2e-3 }])
  await sameLogits(context, "rotation merged", adapters.rotation as string, input)
}

/** What PyTorch agreed with is what the adapter itself computes here. */
async function sameLogits(context: Context, name: string, adapter: string, input: string): Promise<void> {
  const [own, other] = [
    join(context.folder, `${name}.own.safetensors`),
    join(context.folder, `${name}.logits.safetensors`),
  ]
  await context.peft("logits", "--model", context.model, "--adapter", adapter, "--input", input, "--output", own)
  const apart = await context.python<number>("tensors.py", own, "--against", other, "logits", "logits")
  context.expect(
    `${name} has the adapter's logits`,
    apart <= 2e-3,
    `largest difference ${apart.toExponential(2)}, allowed 0.002`,
  )
}
