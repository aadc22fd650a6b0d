/**
 * Instruction tuning: LoRA, DoRA, MoRA and full fine-tuning on short and on long answers, and then which tokens the loss is taken over.
 * The loss of held-out responses, and forgetting: the loss on general text after, less that before.
 */
import type { Model } from "@peftjs/core"
import { evaluate, type TrainOptions } from "@peftjs/train"
import { generalText, makeBackend, pretrained, untrained } from "./bases.ts"
import { compare } from "./compare.ts"
import type { Spectrum } from "./deltas.ts"
import { lineChart, type Panel } from "./plot.ts"
import { chosenOf, courses, type Options, type Report, sweepTable, table, tradeOff, write } from "./report.ts"
import { type Point, type Run, runOnce, type Setting } from "./run.ts"
import { type AnswerLength, instructions } from "./texts.ts"
import { adapted, full, loraOf, moraOf, type Variant } from "./variants.ts"

/** Scores after instruction tuning of LLaMA-2-7B, higher is better (table 1): MMLU without and with 5 examples, GSM8K, MATH. */
const paper = {
  FFT: [50.6, 51.3, 66.6, 20.1],
  "LoRA r 8": [50.2, 51.5, 64.6, 15.1],
  "DoRA r 8": [50.2, 51.5, 64.5, 14.6],
  "MoRA r 8": [49.7, 51.5, 64.2, 15.4],
}

const r = 4

function variants(quick: boolean): Variant[] {
  if (quick)
    return [adapted(`LoRA r ${r}`, () => loraOf(r), [1e-2]), adapted(`MoRA r ${r}`, () => moraOf(r, "small"), [1e-2])]
  return [
    full([1e-3, 3e-3]),
    adapted(`LoRA r ${r}`, () => loraOf(r), [3e-3, 1e-2]),
    adapted(`DoRA r ${r}`, () => loraOf(r, true), [3e-3, 1e-2]),
    adapted(`MoRA r ${r}`, () => moraOf(r, "small"), [3e-3, 1e-2]),
  ]
}

/** Which tokens are learnt from: 0 for the prompt is the mask "completion", 1 the same as "full". */
const masks: Readonly<Record<string, TrainOptions>> = {
  "prompt 0.1": { promptLossWeight: 0.1 },
  full: { lossMask: "full" },
}

export async function instruction({ quick, seed, folder }: Options): Promise<Report> {
  const [steps, every] = quick ? [6, 3] : [48, 12]
  const backend = await makeBackend()
  const base = await (quick ? untrained(backend, seed, true) : pretrained(backend, seed, 300))
  const general = generalText(quick ? 8 : 32, 99)
  const before = await loss(base, general)
  const runs: Report["runs"][number][] = []
  const found: Record<string, readonly Spectrum[]> = {}
  const chosen: { set: string; mask: string; run: Run }[] = []
  for (const length of quick ? (["short"] as const) : (["short", "long"] as const)) {
    const { train, heldOut } = instructions(length, seed)
    console.log(`Instructions with ${length} answers: ${train.rows.length}, ${steps} steps`)
    const setting: Setting = {
      ...{ base, data: train, steps, seed, every },
      training: { batchSize: 8, maxLength: 96, scheduler: "linear", warmupSteps: Math.ceil(steps / 10) },
      measure: async (model) => ({
        response: (await evaluate(model, heldOut, { batchSize: 15, maxLength: 96 })).loss,
        forgetting: (await loss(model, general)) - before,
      }),
    }
    const done = await compare(variants(quick), setting, (run) => -last(run, "response"), quick ? 0 : 2)
    runs.push(...done.runs.map((run) => ({ ...run, set: length })))
    chosen.push(...done.chosen.map((run) => ({ set: length, mask: "completion", run })))
    for (const [name, rows] of Object.entries(done.spectra)) found[`${name}, ${length}`] = rows
    chosen.push(...(await masked(quick, length, setting, chosen)))
  }
  const report: Report = {
    name: "instruction",
    scale: `The paper: LLaMA-2-7B, 326,000 instructions of Tulu v2 and 395,000 of MetaMathQA, scored by benchmarks. Here: 158 thousand parameters, pretrained for 300 steps; then 125 questions, ${steps} steps of 8, scored by the loss of 30 held-out answers.`,
    ...{ seed, quick, spectra: found },
    runs: [
      ...runs,
      ...chosen.filter((c) => c.mask !== "completion").map(({ run, set }) => ({ ...run, set, chosen: true as const })),
    ],
    seconds: [...runs, ...chosen.filter((c) => c.mask !== "completion").map(({ run }) => run)].reduce(
      (sum, run) => sum + run.seconds,
      0,
    ),
    found: { generalLossBefore: before },
  }
  write(report, plot(report), folder)
  print(report, runs, chosen)
  return report
}

/** LoRA once more at its learning rate with the other masks. */
async function masked(
  quick: boolean,
  length: AnswerLength,
  setting: Setting,
  chosen: readonly { set: string; run: Run }[],
): Promise<{ set: string; mask: string; run: Run }[]> {
  const name = `LoRA r ${r}`
  const found = chosen.find(({ set, run }) => set === length && run.variant === name)
  const variant = variants(quick).find((v) => v.name === name)
  if (!found || !variant) throw new Error(`there is no run of ${name} on ${length} answers`)
  const runs: { set: string; mask: string; run: Run }[] = []
  for (const [mask, options] of Object.entries(masks).slice(quick ? 1 : 0)) {
    const training = { ...setting.training, ...options }
    const run = await runOnce({ ...variant, name: `${name}, ${mask}` }, found.run.learningRate, {
      ...setting,
      training,
    })
    runs.push({ set: length, mask, run })
  }
  return runs
}

const loss = async (model: Model, data: Parameters<typeof evaluate>[1]): Promise<number> =>
  (await evaluate(model, data, { lossMask: "full", maxLength: 64, batchSize: 16 })).loss

const last = ({ points }: Run, key: string): number => (points.at(-1) as Point)[key] as number

export function plot(report: Report): string {
  const panels = [...new Set(report.runs.map(({ set }) => set as string))].flatMap((set): Panel[] => {
    const own = report.runs.filter((run) => run.set === set)
    const price = { title: `${set} answers: the end of every run`, x: "forgetting", y: "loss of held-out responses" }
    return [
      {
        title: `${set} answers, at the best learning rates`,
        x: "step",
        y: price.y,
        lines: courses(chosenOf(report, set), "response"),
      },
      { ...price, lines: tradeOff(own, "forgetting", "response") },
    ]
  })
  return lineChart("Instruction tuning", panels)
}

function print(
  report: Report,
  swept: Report["runs"],
  chosen: readonly { set: string; mask: string; run: Run }[],
): void {
  console.log("\nAll learning rates (* chosen by the loss of held-out responses)\n")
  console.log(sweepTable(swept, ["response", "forgetting"]))
  console.log("\nOurs: losses, lower is better\n")
  console.log(
    table(
      ["method", "answers", "loss over", "trained", "lr", "response", "forgetting"],
      chosen.map(({ set, mask, run }) => [
        ...[run.variant.split(",")[0] as string, set, mask, run.parameters, run.learningRate],
        ...["response", "forgetting"].map((key) => last(run, key).toFixed(3)),
      ]),
    ),
  )
  console.log(`\nThe paper's: scores, higher is better. ${report.scale}\n`)
  console.log(
    table(
      ["method", "MMLU 0", "MMLU 5", "GSM8K", "MATH"],
      Object.entries(paper).map(([n, row]) => [n, ...row]),
    ),
  )
}
