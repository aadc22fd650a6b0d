/** An adapter saved by PEFT, loaded and saved here, must be the same adapter to PEFT: configuration, tensors, logits. */
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { resave } from "../resave.ts"

const tiny = [
  "lora-all-linear",
  "lora-qv-r4",
  "lora-rslora",
  "lora-patterns",
  "lora-regex",
  "lora-exclude",
  "lora-layers",
  "lora-layers-pattern",
  "lora-bf16",
  "lora-fp16",
]

type Verdict = { faults: string[]; max_abs: number; effect: number }

export async function roundTrip(context: Context): Promise<void> {
  const { model, shared, folder, expect } = context
  const fixtures = join(shared, "fixtures")
  const plain = context.write(
    "plain.json",
    await context.python("tensors.py", join(fixtures, "models/llama/inputs.safetensors"), "input_ids"),
  )
  const prompt = context.write(
    "prompt.json",
    await context.python("tensors.py", join(fixtures, "smollm2-lora/expected.safetensors"), "input_ids"),
  )
  const jobs = [
    ...tiny.map((name) => ({
      name,
      base: join(fixtures, "models/llama"),
      before: join(fixtures, "adapters/llama", name),
      input: plain,
    })),
    { name: "smollm2-lora", base: model, before: join(fixtures, "smollm2-lora"), input: prompt },
  ].map((job) => ({ ...job, after: join(folder, job.name) }))
  for (const { base, before, after } of jobs) await resave(base, before, after)
  const verdicts = await context.python<Verdict[]>("roundtrip.py", context.write("jobs.json", jobs))
  verdicts.forEach(({ faults, max_abs, effect }, i) => {
    const unchanged = faults.length === 0 && max_abs === 0 && effect > 1e-3
    expect(`${jobs[i]?.name} comes back unchanged`, unchanged, [...faults, `logits differ by ${max_abs}`].join("; "))
  })
}
