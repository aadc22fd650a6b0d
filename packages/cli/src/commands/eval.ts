/** `peft eval`: the loss of a model on a file of rows. */
import { PeftError } from "@peftjs/core"
import { evaluate, type LossMask, lossMasks } from "@peftjs/train"
import { jsonlFile } from "@peftjs/train/node"
import { type Command, Option } from "commander"
import { printJson } from "../json.ts"
import { loadModel, type ModelFlags, modelOptions } from "../model.ts"
import { required, whole } from "../options.ts"

interface EvalFlags extends ModelFlags {
  readonly data?: string
  readonly maxEvalSamples?: number
  readonly maxLength: number
  readonly batchSize: number
  readonly lossMask: LossMask
}

export function addEval(program: Command): void {
  modelOptions(program.command("eval").description("mean loss over the tokens of a data file that count"))
    .option("--data <file.jsonl>", "rows, in any form that train takes")
    .addOption(whole("--max-eval-samples <n>", "only the first rows", { min: 1 }))
    .addOption(whole("--max-length <n>", "tokens kept of each row", { min: 2 }).default(256))
    .addOption(whole("--batch-size <n>", "rows at a time; changes the speed alone", { min: 1 }).default(4))
    .addOption(new Option("--loss-mask <mode>", "which tokens count").choices(lossMasks).default("completion"))
    .action(runEval)
}

async function runEval(flags: EvalFlags): Promise<void> {
  const { maxEvalSamples: maxSamples, maxLength, batchSize, lossMask } = flags
  const data = await jsonlFile(required(flags.data, "--data"))
  const model = await loadModel(flags)
  const options = { maxLength, batchSize, lossMask, ...(maxSamples === undefined ? {} : { maxSamples }) }
  const { loss, perplexity, tokens, response_loss } = await evaluate(model, data, options)
  if (!Number.isFinite(loss)) {
    throw new PeftError(
      "E_LOSS_NOT_FINITE",
      `[cli] the loss is ${loss}: the weights or the adapter hold NaN or Inf (peft inspect tells)`,
    )
  }
  if (flags.json) printJson({ loss, perplexity, tokens, response_loss: response_loss ?? null })
  else {
    const answer = response_loss === undefined ? "" : `, response loss ${response_loss.toFixed(4)}`
    process.stdout.write(`loss ${loss.toFixed(4)}, perplexity ${perplexity.toFixed(3)}, ${tokens} tokens${answer}\n`)
  }
}
