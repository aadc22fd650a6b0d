/**
 * Pretraining from random weights (section 6 of the MoRA paper: C4): LoRA, ReLoRA, MoRA and ReMoRA on frozen layers, with the embedding,
 * the head and the norms trained in full, against training everything, for equally many tokens.
 */
import { lora } from "@peftjs/lora"
import { mora } from "@peftjs/mora"
import { evaluate, type TrainOptions } from "@peftjs/train"
import { generalText, makeBackend, untrained } from "./bases.ts"
import { compare } from "./compare.ts"
import { lineChart } from "./plot.ts"
import { chosenOf, courses, type Options, type Report, sweepTable, table, write } from "./report.ts"
import type { Point, Run, Setting } from "./run.ts"
import { adapted, full, type Variant } from "./variants.ts"

/** Perplexity on C4 after 10,000 steps at r 128, 250 million and 1.3 billion parameters. */
const paper = { LoRA: [33.4, 28.56], MoRA: [28.54, 25.25], ReLoRA: [32.19, 27.8], ReMoRA: [26.74, 23.34] }

/** An eighth of the width, as the paper's 128 is a sixth of 768. */
const r = 8

function variants(quick: boolean, steps: number): Variant[] {
  const modulesToSave = ["embed_tokens", "lm_head", "norm"]
  const every = steps / 4
  const training: TrainOptions = { restart: { every, warmup: Math.ceil(every / 8) } }
  const ofLora = () => lora({ r, alpha: 2 * r })
  const ofMora = () => mora({ r, type: "sharing", remoraTypes: 2 })
  const rates = quick ? [1e-2] : [3e-3, 1e-2]
  const all = [
    full(rates),
    adapted("LoRA", ofLora, rates, { modulesToSave }),
    adapted("ReLoRA", ofLora, rates, { modulesToSave, training }),
    adapted("MoRA", ofMora, rates, { modulesToSave }),
    adapted("ReMoRA", ofMora, rates, { modulesToSave, training }),
  ]
  return quick ? all.slice(3) : all
}

export async function pretraining({ quick, seed, folder }: Options): Promise<Report> {
  const [steps, every, batchSize] = quick ? [8, 4, 8] : [240, 20, 8]
  const base = await untrained(await makeBackend(), seed)
  const unseen = generalText(quick ? 8 : 32, 99)
  console.log(`Pretraining: ${steps} steps of ${batchSize} rows`)
  const setting: Setting = {
    ...{ base, data: generalText(steps * batchSize, seed), steps, seed, every },
    training: { batchSize, lossMask: "full", maxLength: 64, scheduler: "cosine", warmupSteps: Math.ceil(steps / 20) },
    measure: async (model) => {
      const { loss, perplexity } = await evaluate(model, unseen, { lossMask: "full", maxLength: 64, batchSize: 16 })
      return { loss, perplexity }
    },
  }
  const { runs, chosen, spectra } = await compare(
    variants(quick, steps),
    setting,
    (run) => -last(run, "loss"),
    quick ? 0 : 2,
  )
  const report: Report = {
    name: "pretraining",
    scale: `The paper: 250 million and 1.3 billion parameters, 10,000 steps of 1,024 rows of 512 tokens of C4, restarts every 2,000. Here: 215 thousand parameters, ${steps} steps of ${batchSize} rows of at most 64 tokens of the demo's grammar, restarts every ${steps / 4}.`,
    ...{ seed, quick, runs, spectra },
    seconds: runs.reduce((sum, run) => sum + run.seconds, 0),
    found: { tokens: "equal: the same rows in the same order" },
  }
  write(report, plot(report), folder)
  print(report, chosen, steps)
  return report
}

export function plot(report: Report): string {
  const axes = {
    title: "at each method's best learning rate",
    x: "step",
    y: "perplexity of unseen text",
    log: true,
  } as const
  return lineChart("Pretraining from random weights", [{ ...axes, lines: courses(chosenOf(report), "perplexity", 1) }])
}

const last = ({ points }: Run, key: string): number => (points.at(-1) as Point)[key] as number

function print(report: Report, chosen: readonly Run[], steps: number): void {
  const marks = [0.25, 0.5, 0.75, 1].map((share) => steps * share)
  console.log("\nAll learning rates (* chosen)\n")
  console.log(sweepTable(report.runs, ["loss", "perplexity"]))
  console.log("\nOurs: perplexity of unseen text\n")
  console.log(
    table(
      ["method", "trained", "lr", ...marks.map((m) => `step ${m}`)],
      chosen.map((run) => [
        ...[run.variant, run.parameters, run.learningRate],
        ...marks.map((m) => run.points.find((p) => p.step === m)?.perplexity?.toFixed(2) ?? "-"),
      ]),
    ),
  )
  console.log(`\nThe paper's: ${report.scale}\n`)
  console.log(
    table(
      ["method", "250M", "1.3B"],
      Object.entries(paper).map(([name, row]) => [name, ...row]),
    ),
  )
}
