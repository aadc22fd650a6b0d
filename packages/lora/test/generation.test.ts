/** What transformers and PEFT generate with an adapter on, greedily: the same ids, one prompt at a time and left-padded in a batch. */
import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { cpu } from "@peftjs/backend-cpu"
import { loadAdapter } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { generate } from "@peftjs/models"
import { loadCausalLM } from "@peftjs/models/node"
import { nodeFiles } from "@peftjs/safetensors/node"
import { expect, test } from "vitest"

const fixtures = fileURLToPath(new URL("../../../fixtures/", import.meta.url))

interface Case {
  base: string
  adapter?: string
  prompts: number[][]
  max_new_tokens: number
  eos_token_id?: number
  new_tokens: number[][]
}
const { cases } = JSON.parse(readFileSync(`${fixtures}generation/expected.json`, "utf8")) as {
  cases: Record<string, Case>
}
const adapted = Object.entries(cases).filter(([, { adapter }]) => adapter !== undefined)

test("there are recorded cases", () => {
  expect(adapted.map(([name]) => name).sort()).toEqual(["llama-dora", "llama-lora", "llama-lora-eos"])
})
test.each(adapted)("the recorded ids of %s", async (_name, recorded) => {
  const base = await loadCausalLM(`${fixtures}models/${recorded.base}`, {
    backend: await cpu({ kernels: "reference" }),
  })
  const { model } = await loadAdapter(base, nodeFiles(`${fixtures}${recorded.adapter}`), { methods: [lora] })
  const options = { maxNewTokens: recorded.max_new_tokens, eosTokenId: recorded.eos_token_id ?? null }
  expect(await generate(model, recorded.prompts, options)).toEqual(recorded.new_tokens)
})
