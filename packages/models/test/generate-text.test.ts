/** Answers in words: whole characters only, stop strings across tokens, and why an answer ended. */
import { cpu } from "@peftjs/backend-cpu"
import type { Model } from "@peftjs/core"
import { bindModel, engineOf } from "@peftjs/core"
import { nodeFiles } from "@peftjs/safetensors/node"
import { beforeAll, describe, expect, test } from "vitest"
import { makeAnswer } from "../src/generate-text.ts"
import { type FolderTokenizer, generate, generateText, initCausalLM, loadTokenizer, type Pick } from "../src/index.ts"
import { folder, json } from "./fixtures.ts"

const names = ["chatml", "llama3-style", "sentencepiece-style"]
const tokenizers = new Map<string, FolderTokenizer>()
beforeAll(async () => {
  for (const name of names) tokenizers.set(name, await loadTokenizer(nodeFiles(folder(`tokenizers/${name}`))))
})

const texts = ["Hello, wörld! 日本語 🏔️👩‍👩‍👧 done", " two  spaces\n\n and a tab\t.", "naïve café — ½ €5 \u{1F3D4}"]

/** What is told of a text's ids, and the whole. */
function answer(tokenizer: FolderTokenizer, ids: readonly number[], stop: readonly string[] = []) {
  const told: string[] = []
  const made = makeAnswer(tokenizer, stop, (text) => told.push(text))
  const used = ids.findIndex((id) => made.add(id))
  return { told, text: made.finish(), used: used < 0 ? ids.length : used + 1, stopped: made.stopped }
}

describe.each(names)("%s", (name) => {
  test.each(texts)("%j token by token", (text) => {
    const tokenizer = tokenizers.get(name) as FolderTokenizer
    const ids = tokenizer.encode(text, { addSpecialTokens: false })
    const { told, text: whole } = answer(tokenizer, ids)
    expect(told.join("")).toBe(whole)
    expect(whole).toBe(tokenizer.decode(ids, { skipSpecialTokens: true }))
    expect(told.some((piece) => piece.includes("\uFFFD"))).toBe(false)
    expect(told.some((piece) => /^[\uDC00-\uDFFF]|[\uD800-\uDBFF]$/.test(piece))).toBe(false)
    expect(told.length).toBeGreaterThan(3)
  })

  test("broken bytes are told once nothing can mend them", () => {
    const tokenizer = tokenizers.get(name) as FolderTokenizer
    const bytes = tokenizer.encode("\u{1F3D4}", { addSpecialTokens: false })
    const ids = [...bytes.slice(0, -1), ...tokenizer.encode("abc", { addSpecialTokens: false })]
    const { told, text } = answer(tokenizer, ids)
    expect(told.join("")).toBe(text)
    expect(text).toContain("\uFFFD")
    expect(answer(tokenizer, bytes.slice(0, -1)).told).toHaveLength(1)
  })

  test("stop strings, wherever tokens end", () => {
    const tokenizer = tokenizers.get(name) as FolderTokenizer
    const ids = tokenizer.encode("The answer is forty-two. Question: next", { addSpecialTokens: false })
    const whole = tokenizer.decode(ids)
    for (const stop of ["Question:", "two. Q", "ty-tw", ". ", "next"]) {
      const { told, text, stopped } = answer(tokenizer, ids, ["nowhere", stop])
      expect(text).toBe(whole.slice(0, whole.indexOf(stop)))
      expect(told.join("")).toBe(text)
      expect(stopped).toBe(true)
    }
    const first = answer(tokenizer, ids, ["Question", "is", "two"])
    expect(first.text).toBe(whole.slice(0, whole.indexOf("is")))
    expect(first.used).toBeLessThan(ids.length)
    // A beginning that is not gone on with is told after all.
    const almost = answer(tokenizer, ids, ["nextdoor"])
    expect([almost.text, almost.told.join(""), almost.stopped]).toEqual([whole, whole, false])
  })
})

test("a special token can be named", () => {
  const tokenizer = tokenizers.get("chatml") as FolderTokenizer
  const ids = tokenizer.encode("one<|im_end|>two", { addSpecialTokens: false })
  expect(answer(tokenizer, ids).text).toBe("onetwo")
  expect(answer(tokenizer, ids, ["<|im_end|>"])).toMatchObject({ text: "one", stopped: true })
  expect(() => makeAnswer(tokenizer, [""])).toThrow(/E_OPTION/)
})

describe("with a model", () => {
  let model: Model
  let tokenizer: FolderTokenizer
  beforeAll(async () => {
    tokenizer = tokenizers.get("chatml") as FolderTokenizer
    const config = { ...json("models/llama-tied/config.json"), vocab_size: tokenizer.size }
    model = initCausalLM(config, { backend: await cpu({ kernels: "reference" }), tokenizer })
  })
  /** Says a text, whatever the model thinks. */
  const saying = (text: string): Pick => {
    const ids = tokenizer.encode(text, { addSpecialTokens: false })
    let at = 0
    return () => ids[at++] as number
  }

  test("ends and says why", async () => {
    const run = async (text: string, stop: string[] = []) => {
      const told: string[] = []
      const options = { maxNewTokens: 12, pick: saying(text), stop, onText: (t: string) => told.push(t) }
      const { text: said, end, ids } = await generateText(model, [1, 5], options)
      expect(told.join("")).toBe(said)
      return { said, end, n: ids.length }
    }
    expect(await run("Yes, 🏔.<|im_end|>and more of it")).toMatchObject({ said: "Yes, 🏔.", end: "token" })
    expect(await run("Yes, no, perhaps and so on", ["no,"])).toMatchObject({ said: "Yes, ", end: "stop" })
    expect(await run("a b c d e f g h i j k l m n o p q r s t u v w x y z 1 2 3")).toMatchObject({
      end: "length",
      n: 12,
    })
  })

  test("needs a tokenizer", async () => {
    const { tokenizer: _, ...bare } = model.definition
    await expect(generateText(bindModel(bare), [1], { maxNewTokens: 1 })).rejects.toThrow(/E_TOKENIZER/)
  })

  test("a cache that is kept gives the same, and is the caller's", async () => {
    const first = [1, 5, 9, 30, 7]
    const engine = engineOf(model.backend)
    const before = engine.liveBuffers
    const cache = model.makeCache()
    const options = { maxNewTokens: 4, eosTokenId: null, cache }
    const [made = []] = await generate(model, [first], options)
    expect(cache.length).toBe(first.length + 3)
    const second = [...first, ...made, 44, 45, 46]
    const [alone] = await generate(model, [second], { maxNewTokens: 4, eosTokenId: null })
    const seen: number[][] = []
    const pick: Pick = (logits, _, ids) => {
      seen.push([...ids])
      return logits.indexOf(Math.max(...logits))
    }
    expect(await generate(model, [second], { ...options, pick })).toEqual([alone])
    expect(seen[0]).toEqual(second)
    await expect(generate(model, [first], options)).rejects.toThrow(/beyond the 15 in the cache.*E_PROMPT/)
    cache.free()
    expect(engine.liveBuffers).toBe(before)
    // Two rows that begin alike.
    const shared = model.makeCache()
    await generate(model, [[1, 5]], { maxNewTokens: 1, cache: shared })
    const rows = [
      [1, 5, 8, 9, 10],
      [1, 5, 77],
    ]
    shared.free()
    const both = model.makeCache()
    await generate(
      model,
      [
        [1, 5],
        [1, 5],
      ],
      { maxNewTokens: 1, cache: both },
    )
    const plain = await generate(model, rows, { maxNewTokens: 5, eosTokenId: null })
    expect(await generate(model, rows, { maxNewTokens: 5, eosTokenId: null, cache: both })).toEqual(plain)
    both.free()
    expect(engine.liveBuffers).toBe(before)
  })
})
