/** An adapter saved by PEFT, loaded and saved here, must be the same adapter to PEFT: configuration, tensors, logits. */
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { type Context, readJson } from "../programs.ts"
import { resave } from "../resave.ts"

const architectures = ["llama", "llama-tied", "gpt2"]

/** Folders of the base model and of the adapter itself, which may have a name of its own. */
const placeOf = (folder: string): { base: string; adapter: string } => {
  const { base, adapter } = readJson<{ base: string; adapter: string }>(folder, "expected.json")
  return { base, adapter }
}

type Verdict = { faults: string[]; max_abs: number; effect: number }

export async function roundTrip(context: Context): Promise<void> {
  const { model, shared, folder, expect } = context
  const fixtures = join(shared, "fixtures")
  const plain = context.write(
    "plain.json",
    await context.python("tensors.py", join(fixtures, "models/llama/inputs.safetensors"), "input_ids"),
  )
  const tiny = architectures.flatMap((architecture) =>
    readdirSync(join(fixtures, "adapters", architecture))
      .filter((name) => name.startsWith("lora-"))
      .map((name) => ({ name: `${architecture}-${name}`, ...placeOf(join(fixtures, "adapters", architecture, name)) })),
  )
  const prompt = context.write(
    "prompt.json",
    await context.python("tensors.py", join(fixtures, "smollm2-lora/expected.safetensors"), "input_ids"),
  )
  const jobs = [
    ...tiny.map(({ name, base, adapter }) => ({
      name,
      base: join(fixtures, base),
      before: join(fixtures, adapter),
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
