/** `peft estimate`: how much memory a training run needs, without training. Takes what `peft train` takes. */
import { PeftError } from "@peftjs/core"
import type { Command } from "commander"
import { describeMemory } from "../describe-dry-run.ts"
import { dryRun } from "../dry-run.ts"
import { printJson } from "../json.ts"
import { type TrainFlags, trainOptions } from "../train-options.ts"

export function addEstimate(program: Command): void {
  const description =
    "how much memory peft train needs with these options; reads no weights. Without --data for rows of --max-length tokens"
  trainOptions(program.command("estimate").description(description)).action(runEstimate)
}

async function runEstimate(flags: TrainFlags): Promise<void> {
  const found = await dryRun(flags, (text) => process.stderr.write(`peft: ${text}\n`))
  const [missed] = found.unmatched
  if (missed) {
    throw new PeftError(
      "E_TARGET",
      `[cli] --target-modules ${JSON.stringify(missed.target)} selects no layer; ${missed.hint || "choose others"}`,
    )
  }
  const { method, trainable, total, memory_mb, batch } = found
  if (flags.json) printJson({ method, trainable, total, memory_mb, batch })
  else process.stdout.write(`${describeMemory(found).join("\n")}\n`)
}
