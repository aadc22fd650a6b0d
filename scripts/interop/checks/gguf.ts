/**
 * SmolLM2 as a GGUF file of Q4_1 and Q8_0, as llama.cpp wrote it: the logits and the perplexity are those of transformers' own reading, the
 * tokens those of the Hugging Face tokenizer, and an adapter trained over it loads in PEFT over the Hugging Face model.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { ggufFiles } from "@peftjs/gguf/node"
import { loadTokenizer } from "@peftjs/models"
import { loadTokenizer as loadFolderTokenizer } from "@peftjs/models/node"
import type { Context } from "../programs.ts"
import type { Evaluation } from "./loss.ts"
import { lossesIn } from "./trained.ts"

/** Of the general text, for perplexity. */
const [windows, tokens] = [8, 128]
const logitsAtMost = 1e-3

interface Verdict {
  readonly faults: readonly string[]
  readonly max_abs?: number
  readonly effect: number | null
}

export async function gguf(context: Context): Promise<void> {
  const { folder, expect, peft, python, smollm2Gguf: file } = context
  const inspected = JSON.parse(await peft("inspect", file.path, "--json")) as { types: Record<string, number> }
  const types = JSON.stringify(inspected.types)
  expect("peft inspect", types === '{"Q8_0":28311552,"F32":35136,"Q4_1":106168320}', types)
  const reference = join(folder, "transformers")
  const parameters = await python<number>("gguf_reference.py", file.packages, file.path, reference)
  expect("transformers reads it", parameters === 134_515_008, `${parameters} parameters`)

  await sameTokens(context)
  await samePerplexity(context, reference)

  const adapter = join(folder, "run", "adapter")
  // Four rows again and again, so that the loss has to fall.
  const data = join(folder, "rows.jsonl")
  const rows = readFileSync(join(context.shared, "data/gsm8k/train.jsonl"), "utf8").split("\n").slice(0, 4)
  writeFileSync(data, `${rows.join("\n")}\n`)
  const options = ["--max-steps", "10", "--batch-size", "2", "--max-length", "96", "--learning-rate", "1e-3"]
  await peft("train", "--model", file.path, "--data", data, "--output", join(folder, "run"), ...options)
  const losses = lossesIn(join(folder, "run"))
  const mean = (some: readonly number[]): number => some.reduce((a, b) => a + b, 0) / some.length
  const [first, last] = [mean(losses.slice(0, 2)), mean(losses.slice(-2))]
  expect("10 steps lower the loss", last < 0.8 * first, `${first.toFixed(3)} → ${last.toFixed(3)}`)

  const text = join(context.shared, "data/general.txt")
  const input = context.write("text.json", await python("tokenise.py", context.model, text, "--text", "400"))
  const jobs = []
  for (const own of [null, adapter]) {
    const logits = join(folder, `${own ? "adapted" : "bare"}.safetensors`)
    const over = own ? ["--adapter", own] : []
    await peft("logits", "--model", file.path, ...over, "--input", input, "--output", logits)
    jobs.push({ base: reference, adapter: own, input, logits })
  }
  const verdicts = await python<Verdict[]>("load_adapter.py", context.write("jobs.json", jobs))
  for (const [i, { faults, max_abs, effect }] of verdicts.entries()) {
    expect(
      i === 0 ? "the logits are transformers'" : "the adapter's logits are PEFT's over the Hugging Face model",
      faults.length === 0 && max_abs !== undefined && max_abs <= logitsAtMost,
      faults.join("; ") || `largest difference ${max_abs?.toExponential(2)}, allowed ${logitsAtMost}`,
    )
    if (i === 1) expect("the adapter does something", (effect ?? 0) > 0.1, `moves the logits by ${effect?.toFixed(3)}`)
  }
}

/** Its own vocabulary against the folder's tokenizer.json: natural text, numbers, code, and a conversation. */
async function sameTokens({ model, shared, expect, smollm2Gguf: { path } }: Context): Promise<void> {
  const [ours, theirs] = [await loadTokenizer(ggufFiles(path)), await loadFolderTokenizer(model)]
  const texts = ["data/general.txt", "data/gsm8k/test.jsonl"].map((name) =>
    readFileSync(join(shared, name), "utf8").slice(0, 200_000),
  )
  const encoded = texts.map((text) => [ours.encode(text), theirs.encode(text)] as const)
  const equal = encoded.every(([a, b]) => a.join() === b.join())
  expect("its tokens are the Hugging Face tokenizer's", equal, `${encoded.flatMap(([a]) => [...a]).length} tokens`)
  const [ids] = encoded[0] as readonly [readonly number[], unknown]
  expect("and decode to the text", ours.decode([...ids]) === texts[0])
  const messages = [
    { role: "user", content: "How many legs have 3 cats?" },
    { role: "assistant", content: "12" },
  ] as const
  const [chat, other] = [ours, theirs].map((one) => one.applyChatTemplate([...messages], { addGenerationPrompt: true }))
  expect("so is its chat template", chat === other && (chat ?? "").includes("assistant"))
  const special = [ours.bosTokenId, ours.eosTokenId, ours.padTokenId].join()
  expect("and so are its special tokens", special === [theirs.bosTokenId, theirs.eosTokenId, theirs.padTokenId].join())
}

async function samePerplexity(context: Context, reference: string): Promise<void> {
  const { model, shared, folder, expect, peft, python, smollm2Gguf: file } = context
  const cut = ["--windows", String(windows), "--max-length", String(tokens)]
  const found = await python<object[]>("tokenise.py", model, join(shared, "data/general.txt"), ...cut)
  const data = join(folder, "windows.jsonl")
  writeFileSync(data, found.map((row) => `${JSON.stringify(row)}\n`).join(""))
  const theirs = (await python<Record<string, number>>("perplexity.py", data, reference))[reference] ?? Number.NaN
  const said = await peft("eval", "--model", file.path, "--data", data, "--loss-mask", "full", "--json")
  const { perplexity } = JSON.parse(said) as Evaluation
  expect(
    `perplexity of ${windows * (tokens - 1)} tokens is that of transformers`,
    Math.abs(perplexity / theirs - 1) < 1e-3,
    `${perplexity.toFixed(4)} here, ${theirs.toFixed(4)} there`,
  )
}
