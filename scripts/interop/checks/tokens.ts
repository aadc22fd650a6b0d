/** Tokens and loss mask of real data must be those of transformers, row by row. */
import { join } from "node:path"
import { ourExamples } from "../our-examples.ts"
import type { Context } from "../programs.ts"

const rows = 200
type Example = { input_ids: number[]; labels: number[] }

export async function tokens(context: Context): Promise<void> {
  const data = join(context.shared, "data/gsm8k/train.jsonl")
  for (const length of [256, 4096]) {
    const theirs = await context.python<Example[]>(
      "tokenise.py",
      context.model,
      data,
      String(rows),
      "--max-length",
      String(length),
    )
    const ours = await ourExamples(context.model, data, rows, length)
    for (const key of ["input_ids", "labels"] as const) {
      const different = theirs.flatMap((row, i) => (row[key].join() === ours[i]?.[key].join() ? [] : [i]))
      const count = theirs.reduce((sum, row) => sum + row[key].filter((id) => id !== -100).length, 0)
      const equal = theirs.length === rows && ours.length === rows && different.length === 0
      context.expect(
        `${key} cut at ${length}`,
        equal,
        equal ? `${rows} rows, ${count} tokens equal` : `rows ${different.slice(0, 5)} differ`,
      )
    }
  }
}
