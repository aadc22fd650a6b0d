/** An adapter that PEFT trained on SmolLM2 must give here what PyTorch recorded of it: loss, logits, greedy text. */
import { join } from "node:path"
import { type Context, readJson } from "../programs.ts"
import { adapterOption } from "./logits.ts"
import { evaluate } from "./loss.ts"

type Expected = {
  prompt: string
  response_loss_first_60_test_rows: { base: number; adapter: number }
  greedy_48_tokens: { ids: number[]; text: string }
  tolerance: { logits_abs: number; loss_abs: number }
}

export async function peftTrained(context: Context): Promise<void> {
  const { model, shared, folder, expect } = context
  const adapter = join(shared, "fixtures/smollm2-lora")
  const recorded = readJson<Expected>(adapter, "expected.json")
  const tensors = join(adapter, "expected.safetensors")

  const input = context.write("prompt.json", await context.python("tensors.py", tensors, "input_ids"))
  for (const [name, folderOrNull] of [
    ["base", null],
    ["adapter", adapter],
  ] as const) {
    const logits = join(folder, `${name}.safetensors`)
    await context.peft("logits", "--model", model, ...adapterOption(folderOrNull), "--input", input, "--output", logits)
    const difference = await context.python<number>(
      "tensors.py",
      tensors,
      "--against",
      logits,
      `${name}.logits.last8`,
      "logits",
    )
    expect(
      `logits of ${name}`,
      difference <= recorded.tolerance.logits_abs,
      `largest difference ${difference.toExponential(2)}, allowed ${recorded.tolerance.logits_abs}`,
    )
  }

  const { ids, text } = recorded.greedy_48_tokens
  const said = JSON.parse(
    await context.peft(
      "generate",
      "--model",
      model,
      "--adapter",
      adapter,
      "--prompt",
      recorded.prompt,
      "--chat",
      "--max-new-tokens",
      "48",
      "--json",
    ),
  ) as { text: string; ids: number[] }
  const same = said.ids.filter((id, i) => id === ids[i]).length
  expect("greedy tokens", same === ids.length && said.ids.length === ids.length, `${same} of ${ids.length} equal`)
  expect("greedy text", said.text === text, JSON.stringify(said.text))

  const { response_loss } = await evaluate(context, adapter)
  const wanted = recorded.response_loss_first_60_test_rows.adapter
  expect(
    "response loss",
    Math.abs(response_loss - wanted) <= recorded.tolerance.loss_abs,
    `${response_loss.toFixed(4)}, recorded ${wanted}`,
  )
}
