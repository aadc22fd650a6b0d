/** Twenty steps that PyTorch recorded, repeated by the `peft` command: loss, gradient norm and learning rate of every step, final weights. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { type Context, readJson } from "../programs.ts"
import { writeTrainingRows } from "./rows.ts"

const cases = ["lora-adamw", "lora-adamw-fast", "lora-sgd", "lora-no-clip", "lora-checkpointing", "full-adamw"]

type Optimizer = {
  name: string
  lr: number
  weight_decay: number
  momentum?: number
  betas?: [number, number]
  eps?: number
}
type Recorded = {
  initial_adapter: string | null
  options: {
    accumulation: number
    max_grad_norm: number
    gradient_checkpointing?: boolean
    schedule: { name: string; warmup_steps: number }
    optimizer: Optimizer
  }
  expected: { loss: number[]; grad_norm: number[]; lr: number[] }
  tolerance: { loss_abs: number; grad_norm_abs: number; lr_abs: number; final_weights_abs: number }
}

export async function recordedTraining(context: Context): Promise<void> {
  const fixtures = join(context.shared, "fixtures")
  const data = await writeTrainingRows(context)
  for (const name of cases) {
    const recorded = readJson<Recorded>(fixtures, "training", name, "expected.json")
    const { expected, tolerance, initial_adapter } = recorded
    const output = join(context.folder, name)
    const start =
      initial_adapter === null
        ? ["--method", "full"]
        : ["--method", "lora", "--init-adapter", join(fixtures, initial_adapter)]
    await context.peft(
      ...["train", "--model", join(fixtures, "models/llama"), "--data", data, "--no-shuffle", "--batch-size", "2"],
      ...[...start, ...options(recorded), "--max-steps", String(expected.loss.length), "--output", output],
    )
    const steps = readFileSync(join(output, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    const worst = (key: string, wanted: number[]): number =>
      steps.length === wanted.length
        ? Math.max(...wanted.map((value, i) => Math.abs((steps[i][key] ?? 1e30) - value)))
        : 1e30
    const within = (what: string, difference: number, allowed: number): void =>
      context.expect(`${name} ${what}`, difference <= allowed, `${difference.toExponential(2)}, allowed ${allowed}`)
    within("loss", worst("loss", expected.loss), tolerance.loss_abs)
    within("gradient norm", worst("grad_norm", expected.grad_norm), tolerance.grad_norm_abs)
    within("learning rate", worst("learning_rate", expected.lr), tolerance.lr_abs)
    const full = initial_adapter === null
    const theirs = join(
      fixtures,
      "training",
      name,
      full ? "final_weights.safetensors" : "final_adapter/adapter_model.safetensors",
    )
    const ours = join(output, full ? "model/model.safetensors" : "adapter/adapter_model.safetensors")
    within(
      "final weights",
      await context.python<number>("tensors.py", theirs, "--against", ours),
      tolerance.final_weights_abs,
    )
  }
}

function options({
  options: { accumulation, max_grad_norm, gradient_checkpointing, schedule, optimizer },
}: Recorded): string[] {
  const given = {
    optimizer: optimizer.name,
    "learning-rate": optimizer.lr,
    "weight-decay": optimizer.weight_decay,
    "sgd-momentum": optimizer.momentum,
    "adam-beta1": optimizer.betas?.[0],
    "adam-beta2": optimizer.betas?.[1],
    "adam-epsilon": optimizer.eps,
    "lr-scheduler": schedule.name,
    "warmup-steps": schedule.warmup_steps,
    "gradient-accumulation-steps": accumulation,
    "max-grad-norm": max_grad_norm,
  }
  const pairs = Object.entries(given).flatMap(([option, value]) =>
    value === undefined ? [] : [`--${option}`, String(value)],
  )
  return gradient_checkpointing ? [...pairs, "--gradient-checkpointing"] : pairs
}
