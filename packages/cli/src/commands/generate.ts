/** `peft generate`: the continuation of a prompt, or a conversation. */
import { PeftError } from "@peftjs/core"
import { generateText, type SampleOptions, sample } from "@peftjs/models"
import type { Command } from "commander"
import { chat } from "../chat.ts"
import { makeConversation, tokenizerOf } from "../conversation.ts"
import { printJson } from "../json.ts"
import { loadModel, type ModelFlags, modelOptions } from "../model.ts"
import { numeric, repeated, required, whole } from "../options.ts"

interface GenerateFlags extends ModelFlags {
  readonly prompt?: string
  readonly chat?: boolean
  readonly interactive?: boolean
  readonly system?: string
  readonly maxNewTokens?: number
  readonly temperature?: number
  readonly topK?: number
  readonly topP?: number
  readonly repetitionPenalty?: number
  readonly seed?: number
  readonly stop?: readonly string[]
}

export function addGenerate(program: Command): void {
  modelOptions(program.command("generate").description("continue a prompt, or talk with --interactive"))
    .option("--prompt <text>", "what to continue; with --interactive, the first message")
    .option("--chat", "the prompt is a user's message, rendered with the model's chat template")
    .option("--interactive", "a conversation on the terminal; /help tells more")
    .option("--system <text>", "system message, with --chat or --interactive")
    .addOption(whole("--max-new-tokens <n>", "at most so many (default: 64, with --interactive 512)", { min: 1 }))
    .addOption(numeric("--temperature <t>", "how freely to choose; 0 always takes the likeliest token", { min: 0 }))
    .addOption(whole("--top-k <n>", "choose among the n likeliest tokens", { min: 1 }))
    .addOption(
      numeric("--top-p <p>", "choose among the likeliest tokens that reach this probability", { min: 0, max: 1 }),
    )
    .addOption(numeric("--repetition-penalty <x>", "above 1, what was there already becomes less likely", { min: 0 }))
    .addOption(whole("--seed <n>", "of the choice; the same again gives the same (default: 0)", { min: 0 }))
    .addOption(repeated("--stop <text>", "ends the answer and is not part of it; may be given several times"))
    .addHelpText(
      "after",
      "\nThe likeliest token is taken unless --temperature, --top-k, --top-p or --seed is given; the temperature is then 1.",
    )
    .action(runGenerate)
}

async function runGenerate(flags: GenerateFlags): Promise<void> {
  const { interactive, system, stop = [] } = flags
  const limit = flags.maxNewTokens ?? (interactive ? 512 : 64)
  const options = { maxNewTokens: limit, stop, pick: sample(sampleOptions(flags)) }
  if (interactive && flags.json) throw new PeftError("E_OPTION", "[cli] --interactive has no --json; leave one out")
  if (interactive) return chat(makeConversation(await loadModel(flags), { ...options, system }), flags.prompt)
  const prompt = required(flags.prompt, "--prompt")
  if (system !== undefined && !flags.chat)
    throw new PeftError("E_OPTION", "[cli] --system needs --chat or --interactive; a plain prompt has no roles")
  const model = await loadModel(flags)
  const tokenizer = tokenizerOf(model)
  const messages = [
    ...(system === undefined ? [] : [{ role: "system", content: system }]),
    { role: "user", content: prompt },
  ]
  const rendered = flags.chat ? tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true }) : prompt
  const start = tokenizer.encode(rendered, { addSpecialTokens: !flags.chat })
  const onText = flags.json ? {} : { onText: (text: string) => void process.stdout.write(text) }
  const { text, ids } = await generateText(model, start, { ...options, ...onText })
  if (flags.json) printJson({ text, ids })
  else process.stdout.write("\n")
}

/** Greedy unless something asks for chance. */
function sampleOptions(flags: GenerateFlags): SampleOptions {
  const { temperature, topK, topP, repetitionPenalty, seed } = flags
  const chance = [topK, topP, seed].some((value) => value !== undefined)
  const given = Object.entries({ topK, topP, repetitionPenalty, seed }).filter(([, value]) => value !== undefined)
  return { temperature: temperature ?? (chance ? 1 : 0), ...Object.fromEntries(given) }
}
