/**
 * SmolLM2 in 4 and 8 bits: quantised here it loads in transformers + bitsandbytes, quantised there it loads here, with the same logits and
 * the same bytes; and what it costs in perplexity is the same on both sides.
 */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { compareLogits } from "./logits.ts"
import type { Evaluation } from "./loss.ts"

interface Form {
  readonly name: string
  readonly type: "nf4" | "fp4" | "int8"
  readonly double: boolean
}
const forms: readonly Form[] = [
  { name: "nf4", type: "nf4", double: false },
  { name: "nf4+dq", type: "nf4", double: true },
  { name: "fp4", type: "fp4", double: false },
  { name: "int8", type: "int8", double: false },
]
/** Of the general text, for perplexity. */
const [rows, tokens] = [12, 128]
const [logitsAtMost, perplexityAtMost] = [3e-3, 0.03]

interface Compared {
  readonly tensors: number
  readonly different: readonly string[]
  readonly nested_rel: number
  readonly missing: readonly string[]
}

export async function quantised(context: Context): Promise<void> {
  const { model, shared, folder, expect, peft, python } = context
  const text = join(shared, "data/general.txt")
  const made = forms.map((form) => ({
    ...form,
    ours: join(folder, form.name),
    theirs: join(folder, `${form.name} bnb`),
  }))
  for (const { name, type, double, ours } of made) {
    const packing = ["--type", type, ...(double ? ["--double-quant"] : [])]
    const said = JSON.parse(await peft("quantize", "--model", model, "--output", ours, ...packing, "--json")) as {
      layers: number
    }
    expect(`${name}: peft quantize`, said.layers === 210, `${said.layers} layers`)
  }

  const jobs = made.map(({ type, double, ours, theirs }) => ({ type, double, output: theirs, other: ours }))
  const compared = await python<Compared[]>("quantise.py", model, context.write("quantise-jobs.json", jobs))
  for (const [i, { tensors, different, missing, nested_rel }] of compared.entries()) {
    expect(
      `${made[i]?.name}: the files hold bitsandbytes' bytes`,
      different.length + missing.length === 0 && tensors > 210 && nested_rel <= 1e-6,
      [...different, ...missing].slice(0, 5).join(", ") ||
        `${tensors} tensors, nested scales ${nested_rel.toExponential(1)} apart`,
    )
  }

  const input = context.write("text.json", await python("tokenise.py", model, text, "--text", "400"))
  await compareLogits(
    context,
    made.flatMap(({ name, ours, theirs }) => [
      { name: `${name} quantised here`, base: ours, adapter: null, input, atMost: logitsAtMost },
      { name: `${name} saved by transformers`, base: theirs, adapter: null, input, atMost: logitsAtMost },
    ]),
  )
  await perplexities(context, [{ name: "bf16", ours: model, theirs: model }, ...made])
}

async function perplexities(
  context: Context,
  models: readonly { readonly name: string; readonly ours: string; readonly theirs: string }[],
): Promise<void> {
  const text = join(context.shared, "data/general.txt")
  const windows = ["--windows", String(rows), "--max-length", String(tokens)]
  const found = await context.python<object[]>("tokenise.py", context.model, text, ...windows)
  const data = join(context.folder, "windows.jsonl")
  writeFileSync(data, found.map((row) => `${JSON.stringify(row)}\n`).join(""))
  const theirs = await context.python<Record<string, number>>("perplexity.py", data, ...models.map((m) => m.theirs))
  const table: object[] = []
  for (const { name, ours, theirs: other } of models) {
    const evaluated = ["eval", "--model", ours, "--data", data, "--loss-mask", "full", "--json"]
    const { perplexity } = JSON.parse(await context.peft(...evaluated)) as Evaluation
    const their = theirs[other] ?? Number.NaN
    const ratio = perplexity / their
    table.push({ weights: name, here: round(perplexity), bitsandbytes: round(their), ratio: Number(ratio.toFixed(6)) })
    context.expect(
      `${name}: perplexity of ${rows * (tokens - 1)} tokens`,
      Math.abs(ratio - 1) <= perplexityAtMost,
      `${perplexity.toFixed(4)} here, ${their.toFixed(4)} ${name === "bf16" ? "in PyTorch" : "quantised by bitsandbytes"}`,
    )
  }
  console.table(table)
}

const round = (x: number): number => Number(x.toFixed(4))
