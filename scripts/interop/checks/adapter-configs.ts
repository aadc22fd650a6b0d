/** adapter_config.json files of public repositories: read and written back they are equal, or refused by a code that says why. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { isDeepStrictEqual } from "node:util"
import { cpu } from "@peftjs/backend-cpu/node"
import { configOf, freeAdapter, isPeftError, type Model, makeAdapter, readAdapterConfig } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { type Context, readJson } from "../programs.ts"

type Entry = { file: string; kind: string; peft_type: string | null }

/** What a refusal of each kind must speak of. */
const words: Record<string, RegExp> = {
  "peft-lora": /init_lora_weights/,
  mlx: /MLX/,
  adapterhub: /AdapterHub/,
  foreign: /peft_type/,
  "lfs-pointer": /Git LFS/,
}

export async function adapterConfigs(context: Context): Promise<void> {
  const folder = join(context.shared, "corpus/adapter-configs")
  const entries = readJson<Entry[]>(folder, "index.json")
  const model = await loadCausalLM(join(context.shared, "fixtures/models/llama"), { backend: await cpu() })
  for (const kind of new Set(entries.map((entry) => entry.kind))) {
    const files = entries.filter((entry) => entry.kind === kind)
    const wrong: string[] = []
    const refused: string[] = []
    for (const { file, peft_type } of files) {
      try {
        if (!equalAgain(model, readFileSync(join(folder, file), "utf8"), file)) wrong.push(`${file} comes back changed`)
      } catch (error) {
        if (!isPeftError(error)) wrong.push(`${file}: ${String(error)}`)
        else if (!(words[kind] ?? new RegExp(`"${peft_type}"`)).test(error.message)) wrong.push(error.message)
        refused.push(file)
      }
    }
    const mostly = kind === "peft-lora" ? refused.length <= 1 : refused.length === files.length
    const figures = `${files.length - refused.length} equal after a round trip, ${refused.length} refused with a reason`
    context.expect(`${files.length} of kind ${kind}`, mostly && wrong.length === 0, [figures, ...wrong].join("; "))
  }
}

/** Reads a config for a tiny model and compares what would be written; PEFT itself writes inference_mode anew. */
function equalAgain(model: Model, text: string, file: string): boolean {
  const { config, method, overlays } = readAdapterConfig(text, file, [lora])
  const adapter = makeAdapter(model, method, ["model.layers.0.self_attn.q_proj"], {
    ...{ name: "default", seed: 0 },
    ...{ overlays, loaded: config },
  })
  const written = configOf(model, adapter)
  freeAdapter(adapter)
  return isDeepStrictEqual(JSON.parse(JSON.stringify(written)), { ...JSON.parse(text), inference_mode: true })
}
