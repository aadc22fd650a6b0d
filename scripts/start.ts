/**
 * `npm start`: the main job on a fresh clone. Until a trained model is bundled it fine-tunes the tiny random Llama of the fixtures:
 * the numbers are real, the model has nothing to say.
 */
import { spawnSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import { writeTinyModel } from "./tiny-model.ts"

const root = join(import.meta.dirname, "..")
const folder = join(root, "out", "tiny-llama")
const [model, data, run] = [join(folder, "model"), join(folder, "rows.jsonl"), join(folder, "run")]
const adapter = join(run, "adapter")
const at = (path: string): string => relative(process.cwd(), path) || "."

mkdirSync(folder, { recursive: true })
writeTinyModel(model)
writeFileSync(data, rows())

console.log(
  "No trained model is bundled yet: this fine-tunes a tiny Llama with random weights, to show that everything works.",
)
console.log("On a real model it is the same command with another --model and --data.\n")
const before = loss([])
const options = ["--method", "lora", "--r", "8", "--alpha", "16", "--target-modules", "all-linear"]
const pace = ["--max-steps", "150", "--batch-size", "8", "--learning-rate", "1e-2", "--warmup-steps", "10"]
const where = ["--model", at(model), "--data", at(data), "--output", at(run), "--overwrite"]
console.log(`$ peft ${["train", ...where, ...options, ...pace].join(" ")}`)
peft(["train", ...where, ...options, ...pace], "inherit")
const after = loss(["--adapter", adapter])

console.log(`
Loss on these rows: ${before.toFixed(4)} before, ${after.toFixed(4)} after.
The adapter lies in ${at(adapter)}. Hugging Face PEFT loads it:

  from transformers import AutoModelForCausalLM
  from peft import PeftModel
  model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("${at(model)}"), "${at(adapter)}")`)

/** Mean loss over the answers of the rows. */
function loss(more: readonly string[]): number {
  return (JSON.parse(peft(["eval", "--model", model, "--data", data, "--json", ...more], "pipe")) as { loss: number })
    .loss
}

/** Runs the command; ends this program with its exit code if it fails. */
function peft(args: readonly string[], stdout: "inherit" | "pipe"): string {
  const bin = join(root, "packages", "cli", "bin", "peft.js")
  const { status, stdout: text } = spawnSync(process.execPath, [bin, ...args], {
    stdio: ["ignore", stdout, "inherit"],
    encoding: "utf8",
  })
  if (status !== 0) process.exit(status ?? 1)
  return text ?? ""
}

function rows(): string {
  const row = (n: number): object => ({
    messages: [
      { role: "user", content: `What is ${n} and ${n}?` },
      { role: "assistant", content: `It is ${2 * n}.` },
    ],
  })
  return Array.from({ length: 50 }, (_, n) => `${JSON.stringify(row(n))}\n`).join("")
}
