/** A run that is interrupted or killed at a random step and resumed must end bit-equal to one that was left alone. */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { type Context, finish, startPeft } from "../programs.ts"
import { writeTrainingRows } from "./rows.ts"

/** Everything that has state is on: shuffling over several epochs, dropout, accumulation, moments, a schedule with warm-up. */
const recipe =
  "--method lora --target-modules all-linear --r 4 --alpha 8 --dropout 0.1 --max-steps 60 --batch-size 3 --gradient-accumulation-steps 2 " +
  "--learning-rate 3e-3 --lr-scheduler cosine --warmup-steps 5 --weight-decay 0.01 --max-grad-norm 1 --seed 11 --save-steps 7"
const steps = 60
const firstSave = 7
const kills = 10

export async function killResume(context: Context): Promise<void> {
  const base = join(context.shared, "fixtures/models/llama")
  const data = await writeTrainingRows(context)
  const train = ["train", "--model", base, "--data", data, ...recipe.split(" ")]
  const whole = join(context.folder, "whole")
  await context.peft(...train, "--output", whole)
  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    for (let i = 0; i < kills; i++) {
      const wanted = firstSave + Math.floor(Math.random() * (steps - firstSave - 5))
      const output = join(context.folder, `${signal}-${i}`)
      const child = startPeft([...train, "--output", output], context.blas)
      const ended = finish(child)
      const at = await killAtStep(
        child.kill.bind(child, signal),
        () => child.exitCode !== null,
        join(output, "metrics.jsonl"),
        wanted,
      )
      const { code, stderr } = await ended
      const name = `${signal} ${i + 1} at step ${at}`
      if (at >= steps || code === 0) {
        context.expect(name, false, `came too late, the run had ended with ${code}`)
        continue
      }
      const says = signal === "SIGKILL" || stderr.includes("--resume")
      await context.peft(...train, "--output", output, "--resume", output)
      const different = differences(whole, output)
      context.expect(
        name,
        says && different.length === 0,
        different.join("; ") || (says ? "resumed, bit-equal" : "did not say how to go on"),
      )
    }
  }
}

/** Sends the signal as soon as the metrics show the step; returns the step they show then. */
export async function killAtStep(
  kill: () => boolean,
  over: () => boolean,
  metrics: string,
  step: number,
): Promise<number> {
  while (!over() && stepsIn(metrics) < step) await new Promise((done) => setTimeout(done, 2))
  kill()
  return stepsIn(metrics)
}

function stepsIn(metrics: string): number {
  return existsSync(metrics) ? readFileSync(metrics, "utf8").split("\n").length - 1 : 0
}

/** Names what differs between two finished runs: the adapter's bytes, its configuration, the figures of every step. */
function differences(left: string, right: string): string[] {
  const files = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
  const different = files.filter((file) => !readFileSync(join(left, file)).equals(readFileSync(join(right, file))))
  const [a, b] = [figures(left), figures(right)]
  if (a.length !== steps || a.join("\n") !== b.join("\n"))
    different.push(`metrics.jsonl (${a.length} and ${b.length} lines)`)
  return different.map((file) => `${file} differs`)
}

/** What the metrics say of every step. */
export function figures(output: string): string[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n")
  return lines.map((line) => {
    const { step, loss, learning_rate, grad_norm, tokens } = JSON.parse(line)
    return [step, loss, learning_rate, grad_norm, tokens].join(" ")
  })
}
