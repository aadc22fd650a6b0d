/**
 * A run that merges and starts anew, again and again (ReLoRA, ReMoRA): killed in any cycle it ends as one that was left alone, and what it
 * leaves, a model and the last adapter, is to transformers and PEFT what it is here.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { type Context, finish, readJson, startPeft } from "../programs.ts"
import { figures, killAtStep } from "./kill-resume.ts"
import { compareLogits } from "./logits.ts"
import { writeTrainingRows } from "./rows.ts"

/** Cycles begin with steps 5, 15, 25 … */
const cycles = "--restart-every 10 --restart-warmup 2 --warm-start-steps 4 --max-steps 44 --save-steps 3 --seed 11"
const methods = {
  relora: "--method lora --r 4 --dropout 0.1 --optimizer-reset magnitude:0.9 --modules-to-save norm,lm_head",
  remora: "--method mora --r 4 --method-option type=sharing --optimizer-reset random:0.999",
}
const kills = 4
/** The adapter's configuration names its own folder. */
const files = ["adapter/adapter_model.safetensors", "model/model.safetensors", "model/config.json"]

export async function restarts(context: Context): Promise<void> {
  const base = join(context.shared, "fixtures/models/llama")
  const data = await writeTrainingRows(context)
  for (const [name, options] of Object.entries(methods)) {
    const how = `${options} ${cycles} --batch-size 2 --learning-rate 3e-3 --warmup-steps 2`
    const train = ["train", "--model", base, "--data", data, ...how.split(" ")]
    await killed({ ...context, folder: join(context.folder, name) }, name, train)
  }
  await exchanged(context)
}

async function killed(context: Context, name: string, train: readonly string[]): Promise<void> {
  const whole = join(context.folder, "whole")
  await context.peft(...train, "--output", whole)
  for (let i = 0; i < kills; i++) {
    const output = join(context.folder, `killed-${i}`)
    const child = startPeft([...train, "--output", output], context.blas)
    const ended = finish(child)
    // One in each cycle, from the second on.
    const wanted = 4 + 10 * i + 1 + Math.floor(Math.random() * 8)
    const over = (): boolean => child.exitCode !== null
    const at = await killAtStep(child.kill.bind(child, "SIGKILL"), over, join(output, "metrics.jsonl"), wanted)
    await ended
    await context.peft(...train, "--output", output, "--resume", output)
    const apart = files.filter((file) => !readFileSync(join(output, file)).equals(readFileSync(join(whole, file))))
    const same = figures(output).join() === figures(whole).join()
    context.expect(
      `${name} killed at step ${at}`,
      apart.length === 0 && same,
      [...apart, ...(same ? [] : ["metrics.jsonl"])].join(", ") || "resumed, bit-equal",
    )
  }
}

async function exchanged(context: Context): Promise<void> {
  const { model, shared, folder } = context
  const output = join(folder, "smollm2")
  const how =
    "--method lora --r 8 --alpha 16 --max-steps 9 --batch-size 1 --max-length 96 --loss-mask full --learning-rate 3e-3 --no-shuffle"
  const data = join(shared, "data/gsm8k/train.jsonl")
  const rest = `${how} --restart-every 3 --restart-warmup 1`.split(" ")
  await context.peft("train", "--model", model, "--data", data, ...rest, "--output", output)
  const [merged, adapter] = [join(output, "model"), join(output, "adapter")]
  const { base_model_name_or_path: named } = readJson<Record<string, unknown>>(adapter, "adapter_config.json")
  context.expect("the adapter names the model it sits on", named === merged, String(named))
  const text = await context.python("tokenise.py", model, join(shared, "data/general.txt"), "--text", "200")
  const input = context.write("text.json", text)
  await compareLogits(context, [
    { name: "the model after two restarts", base: merged, adapter: null, input, atMost: 3e-3 },
    { name: "the last adapter", base: merged, adapter, input, atMost: 3e-3 },
  ])
}
