import { cpu } from "@peftjs/backend-cpu"
import { disable, engineOf } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { evaluate, jsonl } from "../src/index.ts"
import { readJson, recordedRows, tinyLlama, valuesOf, withAdapter, withLora } from "./helpers.ts"

const data = recordedRows()

describe("evaluate", () => {
  it("is the mean over all tokens: the recorded loss of the first step's rows", async () => {
    const { expected, tolerance } = readJson("training/lora-adamw/expected.json")
    const model = await withAdapter("training/lora-adamw/initial_adapter")
    const result = await evaluate(model, data, { maxSamples: 4 })
    expect(Math.abs(result.loss - expected.loss[0])).toBeLessThan(tolerance.loss_abs)
    expect(result.tokens).toBe(expected.num_items_in_batch[0])
    expect(result.perplexity).toBeCloseTo(Math.exp(result.loss), 10)
    expect(result.response_loss).toBe(result.loss)
  })

  it("does not depend on the batch size, has no dropout and leaves nothing behind", async () => {
    const backend = await cpu()
    const model = await withLora({ backend, dropout: 0.5 })
    const [before, live] = [await valuesOf(model), engineOf(backend).liveBuffers]
    const [one, many] = [await evaluate(model, data, { batchSize: 1 }), await evaluate(model, data, { batchSize: 7 })]
    expect(one.loss).toBeCloseTo(many.loss, 5)
    expect(one.tokens).toBe(many.tokens)
    expect(engineOf(backend).liveBuffers).toBe(live)
    expect(await valuesOf(model)).toEqual(before)
    disable(model)
    expect((await evaluate(model, data, { batchSize: 7 })).loss).toBe(
      (await evaluate(await tinyLlama(), data, { batchSize: 7 })).loss,
    )
  })

  it("cuts rows at 256 tokens unless told otherwise", async () => {
    const ids = Array.from({ length: 300 }, (_, i) => 3 + (i % 100))
    const long = jsonl([{ input_ids: ids }])
    const model = await tinyLlama()
    expect((await evaluate(model, long)).tokens).toBe(255)
    expect((await evaluate(model, long, { maxLength: 300 })).tokens).toBe(299)
  })

  it("throws when nothing counts or it is told to stop", async () => {
    const model = await tinyLlama()
    const masked = jsonl([{ input_ids: [3, 4], labels: [3, -100] }])
    await expect(evaluate(model, masked)).rejects.toMatchObject({ code: "E_NO_LABELS" })
    await expect(evaluate(model, data, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: "E_ABORTED" })
    await expect(evaluate(model, data, { maxSamples: 0 })).rejects.toMatchObject({ code: "E_OPTION" })
  })
})
