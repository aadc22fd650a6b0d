/** Greedy generation against transformers, with left-padded batches; that it stops, that it can be stopped, that nothing leaks. */
import { cpu } from "@peftjs/backend-cpu"
import type { Model } from "@peftjs/core"
import { engineOf } from "@peftjs/core"
import { beforeAll, describe, expect, test } from "vitest"
import { generate } from "../src/index.ts"
import { loadCausalLM } from "../src/node.ts"
import { folder, json, logitsOf } from "./fixtures.ts"

const { cases } = json("generation/expected.json")
let model: Model
beforeAll(async () => {
  model = await loadCausalLM(folder("models/llama"), { backend: await cpu({ kernels: "reference" }) })
})

const recorded = Object.keys(cases).filter((name) => !cases[name].adapter)
test("there are recorded cases", () => expect(recorded).toEqual(["llama", "gpt2", "qwen3", "mistral-swa"]))
test.each(recorded)("the recorded ids of %s, one by one and in a batch", async (name) => {
  const { prompts, max_new_tokens: maxNewTokens, new_tokens } = cases[name]
  const model = await loadCausalLM(folder(`models/${name}`), { backend: await cpu({ kernels: "reference" }) })
  expect(await generate(model, prompts, { maxNewTokens })).toEqual(new_tokens)
  for (const [i, prompt] of prompts.entries()) {
    expect(await generate(model, [prompt], { maxNewTokens })).toEqual([new_tokens[i]])
  }
})

test("the cache gives the logits of the whole sequence", async () => {
  const ids = [1, 17, 42, 99, 5, 64]
  const whole = await logitsOf(model, { ids: Int32Array.from(ids), batch: 1, tokens: ids.length })
  const cache = model.makeCache()
  const pieces = [ids.slice(0, 3), ids.slice(3, 5), ids.slice(5)]
  const rows: number[] = []
  for (const piece of pieces) {
    rows.push(...(await logitsOf(model, { ids: Int32Array.from(piece), batch: 1, tokens: piece.length, cache })))
  }
  expect(cache.length).toBe(6)
  cache.free()
  expect(Math.max(...rows.map((x, i) => Math.abs(x - (whole[i] as number))))).toBeLessThan(1e-5)
})

describe("ends", () => {
  const prompts = [
    [1, 17, 42, 99, 5],
    [1, 64, 9],
  ]
  test("at eos, padded after it, and when all rows have ended", async () => {
    const free = await generate(model, prompts, { maxNewTokens: 6 })
    const [first, second] = free as [number[], number[]]
    const made = await generate(model, prompts, { maxNewTokens: 6, eosTokenId: first[2] as number, padTokenId: 7 })
    expect(made).toEqual([[...first.slice(0, 3), 7, 7, 7], second])
    const padded = await generate(model, prompts, { maxNewTokens: 4, eosTokenId: first[2] as number })
    expect(padded[0]).toEqual([...first.slice(0, 3), model.config.pad_token_id])
    const both = await generate(model, prompts, {
      maxNewTokens: 6,
      eosTokenId: [first[0] as number, second[1] as number],
    })
    expect(both).toEqual([
      [first[0], model.config.pad_token_id],
      [second[0], second[1]],
    ])
  })

  test("when asked to, after telling each token", async () => {
    const controller = new AbortController()
    const told: number[][] = []
    const running = generate(model, prompts, {
      maxNewTokens: 50,
      signal: controller.signal,
      onToken: (ids) => {
        if (told.push([...ids]) === 3) controller.abort()
      },
    })
    await expect(running).rejects.toMatchObject({ name: "AbortError" })
    expect(told).toHaveLength(3)
  })
})

test("another choice is another pick", async () => {
  const last = await generate(model, [[1, 2]], { maxNewTokens: 2, pick: (logits) => logits.length - 1 })
  expect(last).toEqual([[127, 127]])
})

test("nothing stays on the backend, also after an error", async () => {
  const engine = engineOf(model.backend)
  await generate(model, [[1, 2]], { maxNewTokens: 2 })
  const before = engine.liveBuffers
  await generate(model, [[1, 2, 3], [4]], { maxNewTokens: 5 })
  expect(engine.liveBuffers).toBe(before)
  await expect(generate(model, [[1, 128]], { maxNewTokens: 2 })).rejects.toMatchObject({ code: "E_TOKEN_ID" })
  const throwing = generate(model, [[1]], { maxNewTokens: 5, pick: () => 500 })
  await expect(throwing).rejects.toMatchObject({ code: "E_TOKEN_ID" })
  expect(engine.liveBuffers).toBe(before)
})

test("refuses what cannot be continued", async () => {
  await expect(generate(model, [], { maxNewTokens: 2 })).rejects.toMatchObject({ code: "E_PROMPT" })
  await expect(generate(model, [[1], []], { maxNewTokens: 2 })).rejects.toMatchObject({ code: "E_PROMPT" })
  await expect(generate(model, [[1]], { maxNewTokens: 0 })).rejects.toMatchObject({ code: "E_OPTION" })
})
