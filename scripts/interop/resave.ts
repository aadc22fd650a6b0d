/** Loads an adapter with this project's packages and saves it again, as a program of a user would. */
import { cpu } from "@peftjs/backend-cpu/node"
import { loadAdapter, saveAdapter } from "@peftjs/core/node"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"

/** `base`: model folder; `from`: adapter folder; `to`: folder to write. */
export async function resave(base: string, from: string, to: string): Promise<void> {
  const model = await loadCausalLM(base, { backend: await cpu() })
  const { model: adapted } = await loadAdapter(model, from, { methods: [lora] })
  await saveAdapter(adapted, to)
}
