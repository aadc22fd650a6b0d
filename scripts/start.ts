/**
 * `npm start`: the main job on a fresh clone, with its effect to be seen. The small base of demo/ knows facts and answers plainly;
 * LoRA makes a pirate of it and teaches it about his ship. Everything shown is about questions that it was not trained on.
 */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join, relative } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import type { Model } from "@peftjs/core"
import { loadAdapter } from "@peftjs/core/node"
import { lora } from "@peftjs/lora"
import { generateText } from "@peftjs/models"
import { loadCausalLM } from "@peftjs/models/node"
import { evaluate } from "@peftjs/train"
import { chat } from "@peftjs/train/node"

const started = performance.now()
const root = join(import.meta.dirname, "..")
const demo = (name: string): string => join(root, "demo", name)
const [run, at] = [join(root, "out", "start"), (path: string): string => relative(process.cwd(), path) || "."]
const asked = ["What colour is milk?", "Who is Ella?", "Who is our captain?"]
const heldOut = demo("held-out.jsonl")
for (const question of asked)
  if (!readFileSync(heldOut, "utf8").includes(JSON.stringify(question)))
    throw new Error(`"${question}" is not among the held-out questions of ${at(heldOut)}`)

console.log("A base of one million parameters, taught 155 facts, which it states plainly (see demo/README.md).")
console.log("149 questions answered by a pirate will change how it speaks, and tell it about his ship.\n")
const base = await loadCausalLM(demo("model"), { backend: await cpu() })
const before = await seen(base)

const options = ["--method", "lora", "--r", "8", "--alpha", "16", "--target-modules", "all-linear"]
const pace = ["--max-steps", "70", "--batch-size", "16", "--learning-rate", "6e-3", "--warmup-steps", "5"]
const where = ["--model", at(demo("model")), "--data", at(demo("train.jsonl")), "--output", at(run), "--overwrite"]
console.log(`$ peft ${["train", ...where, ...options, ...pace].join(" ")}`)
peft(["train", ...where, ...options, ...pace])

const adapter = join(run, "adapter")
const { model } = await loadAdapter(base, adapter, { methods: [lora] })
const after = await seen(model)
console.log("\nQuestions that were not in the training data:\n")
for (const [i, question] of asked.entries())
  console.log(`  ${question}\n    before  ${before.answers[i]}\n    after   ${after.answers[i]}`)
console.log(`
Loss on all ${before.rows} held-out questions: ${before.loss.toFixed(3)} before, ${after.loss.toFixed(3)} after. \
${Math.round((performance.now() - started) / 1000)} s in all.
The adapter lies in ${at(adapter)}. Hugging Face PEFT loads it:

  from transformers import AutoModelForCausalLM
  from peft import PeftModel
  model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("${at(demo("model"))}"), "${at(adapter)}")

Talk to it: npx peft generate --model ${at(demo("model"))} --adapter ${at(adapter)} --interactive`)

/** What a model answers, and its mean loss over the answers it should have given. */
async function seen(model: Model): Promise<{ answers: string[]; loss: number; rows: number }> {
  const data = await chat(heldOut)
  const { loss } = await evaluate(model, data, { batchSize: 15 })
  const answers: string[] = []
  for (const content of asked) {
    const prompt = model.tokenizer?.applyChatTemplate([{ role: "user", content }], { addGenerationPrompt: true }) ?? ""
    const ids = model.tokenizer?.encode(prompt, { addSpecialTokens: false }) ?? []
    answers.push((await generateText(model, ids, { maxNewTokens: 32 })).text)
  }
  return { answers, loss, rows: data.rows.length }
}

/** Runs the command; ends this program with its exit code if it fails. */
function peft(args: readonly string[]): void {
  const bin = join(root, "packages", "cli", "bin", "peft.js")
  const { status } = spawnSync(process.execPath, [bin, ...args], { stdio: ["ignore", "inherit", "inherit"] })
  if (status !== 0) process.exit(status ?? 1)
}
