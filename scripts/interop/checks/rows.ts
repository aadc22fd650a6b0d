/** Ready-made training rows for the tiny models, which have no tokenizer: the micro-batches of the training fixtures as JSONL. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Context } from "../programs.ts"

type Batches = Record<"input_ids" | "labels" | "attention_mask", number[][][]>

/** Writes 80 rows (40 micro-batches of 2, in order) and returns the path. */
export async function writeTrainingRows(context: Context): Promise<string> {
  const file = join(context.shared, "fixtures/training/batches.safetensors")
  const { input_ids, labels, attention_mask } = await context.python<Batches>(
    "tensors.py",
    file,
    "input_ids",
    "labels",
    "attention_mask",
  )
  const [ids, wanted, mask] = [input_ids.flat(), labels.flat(), attention_mask.flat()]
  const rows = ids.map((row, i) => JSON.stringify({ input_ids: row, labels: wanted[i], attention_mask: mask[i] }))
  const path = join(context.folder, "rows.jsonl")
  writeFileSync(path, `${rows.join("\n")}\n`)
  return path
}
