/** The logits that PyTorch recorded of the tiny models and of their LoRA adapters, asked of the `peft` command. */
import { join } from "node:path"
import { type Context, readJson } from "../programs.ts"
import { adapterOption } from "./logits.ts"

const models = ["llama", "llama-tied", "llama3-rope"]
const adapters = [
  "all-linear",
  "qv-r4",
  "rslora",
  "patterns",
  "regex",
  "exclude",
  "layers",
  "layers-pattern",
  "bf16",
  "fp16",
]

export async function recordedLogits(context: Context): Promise<void> {
  const fixtures = join(context.shared, "fixtures")
  const cases = [
    ...models.map((name) => ({ model: name, adapter: null, recorded: `models/${name}` })),
    ...adapters.map((name) => {
      const recorded = `adapters/llama/lora-${name}`
      return { model: "llama", adapter: join(fixtures, recorded), recorded }
    }),
  ]
  for (const { model, adapter, recorded } of cases) {
    const folder = join(fixtures, "models", model)
    const { input_ids } = await context.python<{ input_ids: number[][] }>(
      "tensors.py",
      join(folder, "inputs.safetensors"),
      "input_ids",
    )
    const output = join(context.folder, "logits.safetensors")
    const input = context.write("input.json", { input_ids })
    await context.peft("logits", "--model", folder, ...adapterOption(adapter), "--input", input, "--output", output)
    const expected = join(fixtures, recorded, "expected.safetensors")
    const difference = await context.python<number>(
      "tensors.py",
      expected,
      "--against",
      output,
      "plain.logits",
      "logits",
    )
    const { tolerance } = readJson<{ tolerance: { logits_abs: number } }>(fixtures, recorded, "expected.json")
    context.expect(
      recorded,
      difference <= tolerance.logits_abs,
      `${difference.toExponential(2)}, allowed ${tolerance.logits_abs}`,
    )
  }
}
