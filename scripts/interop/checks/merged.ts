/** An adapter merged here must be, for transformers and for us, the model it was: the same logits, the same loss. */
import { join } from "node:path"
import { type Context, readJson } from "../programs.ts"
import { compareLogits } from "./logits.ts"
import { evaluate } from "./loss.ts"

type Expected = {
  response_loss_first_60_test_rows: { adapter: number }
  tolerance: { logits_abs: number; loss_abs: number }
}

export async function merged(context: Context): Promise<void> {
  const { model, shared, folder, expect } = context
  const adapter = join(shared, "fixtures/smollm2-lora")
  const { response_loss_first_60_test_rows: loss, tolerance } = readJson<Expected>(adapter, "expected.json")
  const output = join(folder, "model")
  const said = JSON.parse(
    await context.peft(
      ...["merge", "--model", model, "--adapter", adapter, "--output", output, "--dtype", "f32", "--json"],
    ),
  ) as { max_error: number; sites: number }
  expect(
    "merged layers are the adapted ones",
    said.max_error < 1e-3,
    `${said.sites} layers, max_error ${said.max_error}`,
  )

  const recorded = join(adapter, "expected.safetensors")
  const input = context.write("prompt.json", await context.python("tensors.py", recorded, "input_ids"))
  await compareLogits(context, [
    { name: "the merged model in transformers", base: output, adapter: null, input, atMost: 3e-3 },
  ])
  const logits = join(folder, "the merged model in transformers.logits.safetensors")
  const apart = await context.python<number>(
    "tensors.py",
    recorded,
    "--against",
    logits,
    "adapter.logits.last8",
    "logits",
  )
  expect("its logits are the adapter's", apart <= tolerance.logits_abs, `largest difference ${apart.toExponential(2)}`)

  const { response_loss } = await evaluate({ ...context, model: output }, null)
  expect(
    "its response loss is the adapter's",
    Math.abs(response_loss - loss.adapter) <= tolerance.loss_abs,
    `${response_loss.toFixed(4)}, recorded ${loss.adapter}`,
  )
}
