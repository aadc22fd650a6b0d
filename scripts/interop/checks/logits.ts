/** Do `peft logits` and PyTorch say the same? The one comparison that several checks make. */
import { join } from "node:path"
import type { Context } from "../programs.ts"

/** What to compare: a model folder, an adapter folder (null: the bare model), a JSON file of token ids, the largest difference allowed. */
export type Case = { name: string; base: string; adapter: string | null; input: string; atMost: number }

type Verdict = { faults: string[]; max_abs?: number; effect: number | null; tensors: number }

/** Runs every case here, then all of them in one Python process, and reports each. */
export async function compareLogits(context: Context, cases: Case[]): Promise<void> {
  const jobs = []
  for (const { name, base, adapter, input } of cases) {
    const logits = join(context.folder, `${name}.logits.safetensors`)
    await context.peft("logits", "--model", base, ...adapterOption(adapter), "--input", input, "--output", logits)
    jobs.push({ base, adapter, input, logits })
  }
  const verdicts = await context.python<Verdict[]>("load_adapter.py", context.write("logits-jobs.json", jobs))
  verdicts.forEach(({ faults, max_abs, effect, tensors }, i) => {
    const { name, adapter, atMost } = cases[i] as Case
    if (adapter) {
      context.expect(
        `${name} loads in PEFT`,
        faults.length === 0 && tensors > 0,
        faults.join("; ") || `${tensors} tensors, none missing or unexpected, no UserWarning`,
      )
      context.expect(
        `${name} does something`,
        effect !== null && effect > 10 * atMost,
        `moves the logits by ${effect?.toFixed(4)}`,
      )
    }
    const close = max_abs !== undefined && max_abs <= atMost
    context.expect(
      `${name} has PyTorch's logits`,
      close,
      `largest difference ${max_abs?.toExponential(2) ?? faults.join("; ")}, allowed ${atMost}`,
    )
  })
}

export function adapterOption(adapter: string | null): string[] {
  return adapter === null ? [] : ["--adapter", adapter]
}
