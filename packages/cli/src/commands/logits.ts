/** `peft logits`: what a model says of token ids, as a safetensors file that other programs compare with. */
import { basename, dirname } from "node:path"
import { free, type Model, PeftError } from "@peftjs/core"
import { writeSafetensors } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import type { Command } from "commander"
import { printJson, readJson } from "../json.ts"
import { loadModel, type ModelFlags, modelOptions } from "../model.ts"
import { required } from "../options.ts"

interface LogitsFlags extends ModelFlags {
  readonly input?: string
  readonly output?: string
}

interface Input {
  readonly ids: readonly (readonly number[])[]
  readonly mask?: readonly (readonly number[])[]
  readonly tokens: number
}

export function addLogits(program: Command): void {
  modelOptions(program.command("logits").description("logits of token ids"))
    .option("--input <file.json>", '{"input_ids": [[…]], "attention_mask": [[…]]?}')
    .option("--output <file.safetensors>", "gets the tensor logits, F32 [batch, tokens, vocabulary]")
    .action(runLogits)
}

async function runLogits(flags: LogitsFlags): Promise<void> {
  const output = required(flags.output, "--output")
  const input = parseInput(await readJson(required(flags.input, "--input")), flags.input as string)
  const model = await loadModel(flags)
  const { shape, data } = await logitsOf(model, input)
  const tensors = [["logits", { dtype: "F32", shape, data }]] as const
  await writeSafetensors(nodeFiles(dirname(output)), basename(output), tensors)
  if (flags.json) printJson({ output, shape })
  else process.stdout.write(`${output}: logits [${shape.join(", ")}]\n`)
}

/** Row by row, so that only the result is ever whole. Throws E_NOT_FINITE: such logits would compare as nothing. */
async function logitsOf(model: Model, { ids, mask, tokens }: Input): Promise<{ shape: number[]; data: Float32Array }> {
  let data = new Float32Array(0)
  let vocabulary = 0
  for (const [row, values] of ids.entries()) {
    const hidden = mask?.[row]
    const logits = model.forward({
      ids: Int32Array.from(values),
      batch: 1,
      tokens,
      ...(hidden ? { mask: Int32Array.from(hidden) } : {}),
    })
    vocabulary = logits.shape.at(-1) as number
    if (row === 0) data = new Float32Array(ids.length * tokens * vocabulary)
    data.set((await logits.data()) as Float32Array, row * tokens * vocabulary)
    free(logits)
  }
  if (!data.every(Number.isFinite)) {
    throw new PeftError(
      "E_NOT_FINITE",
      "[cli] the logits hold NaN or Inf: the weights or the adapter are broken (peft inspect tells)",
    )
  }
  return { shape: [ids.length, tokens, vocabulary], data }
}

/** Throws E_INPUT naming what is wrong. */
function parseInput(value: unknown, file: string): Input {
  const wrong = (what: string): PeftError =>
    new PeftError(
      "E_INPUT",
      `[cli] ${file}: ${what}; give {"input_ids": [[…]], "attention_mask": [[…]]} with rows of equal length`,
    )
  const table = (key: string): number[][] => {
    const rows = (value as Record<string, unknown> | null)?.[key]
    const fits = Array.isArray(rows) && rows.every((row) => Array.isArray(row) && row.every(Number.isInteger))
    if (fits) return rows
    throw wrong(`"${key}" is no list of lists of whole numbers`)
  }
  const ids = table("input_ids")
  const tokens = ids[0]?.length ?? 0
  if (tokens === 0 || ids.some((row) => row.length !== tokens))
    throw wrong('"input_ids" has rows of different or no length')
  if ((value as Record<string, unknown>).attention_mask == null) return { ids, tokens }
  const mask = table("attention_mask")
  if (mask.length === ids.length && mask.every((row) => row.length === tokens)) return { ids, tokens, mask }
  throw wrong('"attention_mask" has another shape than "input_ids"')
}
