/** `peft generate`: the likeliest continuation of a prompt. */
import { PeftError } from "@peftjs/core"
import { generate } from "@peftjs/models"
import type { Command } from "commander"
import { printJson } from "../json.ts"
import { loadModel, type ModelFlags, modelOptions } from "../model.ts"
import { required, whole } from "../options.ts"

interface GenerateFlags extends ModelFlags {
  readonly prompt?: string
  readonly chat?: boolean
  readonly maxNewTokens: number
}

export function addGenerate(program: Command): void {
  modelOptions(program.command("generate").description("continue a prompt, always with the likeliest token"))
    .option("--prompt <text>", "what to continue")
    .option("--chat", "the prompt is a user's message, rendered with the model's chat template")
    .addOption(whole("--max-new-tokens <n>", "at most so many", { min: 1 }).default(64))
    .action(runGenerate)
}

async function runGenerate(flags: GenerateFlags): Promise<void> {
  const prompt = required(flags.prompt, "--prompt")
  const model = await loadModel(flags)
  const { tokenizer } = model
  if (!tokenizer) throw new PeftError("E_TOKENIZER", `[cli] ${flags.model} has no tokenizer.json; generate needs one`)
  const rendered = flags.chat
    ? tokenizer.applyChatTemplate([{ role: "user", content: prompt }], { addGenerationPrompt: true })
    : prompt
  const start = tokenizer.encode(rendered, { addSpecialTokens: !flags.chat })
  const [ids = []] = await generate(model, [start], { maxNewTokens: flags.maxNewTokens })
  const text = tokenizer.decode(ids, { skipSpecialTokens: true })
  if (flags.json) printJson({ text, ids })
  else process.stdout.write(`${text}\n`)
}
