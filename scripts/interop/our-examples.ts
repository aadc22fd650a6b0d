/** Rows of a data file as this project would train on them: its tokenizer, chat template, loss mask and cut. */
import { loadTokenizer } from "@peftjs/models/node"
import { encodeRow } from "@peftjs/train"
import { jsonlFile } from "@peftjs/train/node"

/** `model`: folder with the tokenizer; `data`: JSONL; the first `rows` rows, cut at `maxLength` tokens, completion mask. */
export async function ourExamples(
  model: string,
  data: string,
  rows: number,
  maxLength: number,
): Promise<{ input_ids: number[]; labels: number[] }[]> {
  const tokenizer = await loadTokenizer(model)
  const { name, rows: all } = await jsonlFile(data)
  return all.slice(0, rows).map((row, i) => {
    const { ids, labels } = encodeRow(row, tokenizer, { maxLength, lossMask: "completion" }, `${name}, row ${i + 1}`)
    return { input_ids: [...ids], labels: [...labels] }
  })
}
