/** An adapter trained in a page and downloaded there must load in PEFT and mean the same. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { inPage } from "../../../tests/browser-page.ts"
import { type Context, readJson } from "../programs.ts"
import { repository } from "../setup.ts"
import { compareLogits } from "./logits.ts"

export async function browserAdapter(context: Context): Promise<void> {
  const { first, last, files } = await inPage({ steps: 20, batchSize: 8 })
  context.expect("the loss falls in the page", last < first / 2, `from ${first} to ${last}`)
  const adapter = join(context.folder, "downloaded")
  mkdirSync(adapter)
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(adapter, name), bytes)
  const config = readJson<{ peft_type: string; r: number }>(adapter, "adapter_config.json")
  context.expect(
    "the configuration is LoRA's",
    config.peft_type === "LORA" && config.r === 8,
    `${config.peft_type}, r ${config.r}`,
  )
  const input = context.write("input.json", { input_ids: [Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % 896)] })
  const base = join(repository, "demo", "model")
  await compareLogits(context, [{ name: "downloaded", base, adapter, input, atMost: 1e-4 }])
}
