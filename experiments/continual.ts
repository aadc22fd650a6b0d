/**
 * Reading on in a domain (section 5 of the MoRA paper: biomedical and financial text): what is learnt of it, and what is lost of the rest.
 * The loss on held-out articles, the loss on the facts alone, and forgetting: the loss on general text after, less that before.
 */
import { evaluate } from "@peftjs/train"
import { generalText, makeBackend, pretrained, untrained } from "./bases.ts"
import { compare } from "./compare.ts"
import { lineChart, type Panel } from "./plot.ts"
import { chosenOf, courses, type Options, type Report, sweepTable, table, tradeOff, write } from "./report.ts"
import type { Point, Run, Setting } from "./run.ts"
import { herbal, herbalFacts } from "./texts.ts"
import { adapted, full, loraOf, moraOf, type Variant } from "./variants.ts"

/** Mean scores after continual pretraining of LLaMA-2-7B, higher is better (table 1). Forgetting was not measured. */
const paper = {
  FFT: [56.4, 69.6],
  "LoRA r 8": [52.3, 64.0],
  "MoRA r 8": [53.3, 67.1],
  "LoRA r 256": [54.1, 67.3],
  "MoRA r 256": [55.4, 68.7],
}

const sizes = { small: 2, large: 16 }

function variants(quick: boolean): Variant[] {
  if (quick)
    return [adapted("LoRA r 2", () => loraOf(2), [3e-2]), adapted("MoRA r 2", () => moraOf(2, "small"), [3e-2])]
  return [
    full([1e-3, 3e-3]),
    ...(["small", "large"] as const).flatMap((size) => [
      adapted(`LoRA r ${sizes[size]}`, () => loraOf(sizes[size]), [3e-3, 1e-2]),
      adapted(`MoRA r ${sizes[size]}`, () => moraOf(sizes[size], size), [3e-3, 1e-2]),
    ]),
  ]
}

export async function continual({ quick, seed, folder }: Options): Promise<Report> {
  const [articles, steps, every] = quick ? [32, 12, 6] : [320, 80, 16]
  const backend = await makeBackend()
  const base = await (quick ? untrained(backend, seed, true) : pretrained(backend, seed, 300))
  const unseen = herbal(quick ? 8 : 32, seed, "held out")
  const facts = herbalFacts(seed, base.tokenizer as NonNullable<typeof base.tokenizer>)
  const general = generalText(quick ? 8 : 32, 99)
  const options = { lossMask: "full", maxLength: 64, batchSize: 16 } as const
  const before = (await evaluate(base, general, options)).loss
  console.log(`Reading on: ${articles} articles of a herbal, ${steps} steps`)
  const setting: Setting = {
    ...{ base, data: herbal(articles, seed, "read"), steps, seed, every },
    training: {
      batchSize: 8,
      lossMask: "full",
      maxLength: 64,
      scheduler: "linear",
      warmupSteps: Math.ceil(steps / 10),
    },
    measure: async (model) => ({
      domain: (await evaluate(model, unseen, options)).loss,
      facts: (await evaluate(model, facts, { ...options, maxSamples: quick ? 16 : 100 })).loss,
      forgetting: (await evaluate(model, general, options)).loss - before,
    }),
  }
  const { runs, chosen, spectra } = await compare(
    variants(quick),
    setting,
    (run) => -last(run, "domain"),
    quick ? 0 : 2,
  )
  const report: Report = {
    name: "continual",
    scale: `The paper: LLaMA-2-7B on PubMed abstracts and financial news, scored by question answering. Here: 158 thousand parameters, pretrained for 300 steps; then ${articles} articles about 40 made-up plants, ${steps} steps of 8, scored by loss.`,
    ...{ seed, quick, runs, spectra },
    seconds: runs.reduce((sum, run) => sum + run.seconds, 0),
    found: { generalLossBefore: before },
  }
  write(report, plot(report), folder)
  print(report, chosen)
  return report
}

export function plot(report: Report): string {
  const panel = (title: string, y: string, key: string): Panel => {
    return { title, x: "step", y, lines: courses(chosenOf(report), key) }
  }
  const price = {
    title: "the end of every run: the domain against forgetting",
    x: "forgetting",
    y: "loss on the domain",
  }
  return lineChart("Reading on in a domain", [
    panel("held-out articles of the domain, at each method's best learning rate", "loss", "domain"),
    panel("facts of the domain", "loss", "facts"),
    panel("forgetting: loss on general text, after less before", "loss", "forgetting"),
    { ...price, lines: tradeOff(report.runs, "forgetting", "domain") },
  ])
}

const last = ({ points }: Run, key: string): number => (points.at(-1) as Point)[key] as number

function print(report: Report, chosen: readonly Run[]): void {
  console.log("\nAll learning rates (* chosen by the loss on held-out articles)\n")
  console.log(sweepTable(report.runs, ["domain", "facts", "forgetting"]))
  const [first] = chosen as [Run]
  const start = { ...first, variant: "before", parameters: 0, learningRate: 0, points: first.points.slice(0, 1) }
  console.log("\nOurs: losses, lower is better\n")
  console.log(
    table(
      ["method", "trained", "lr", "domain", "facts", "forgetting"],
      [start, ...chosen].map((run) => [
        ...[run.variant, run.parameters, run.learningRate],
        ...["domain", "facts", "forgetting"].map((key) => last(run, key).toFixed(3)),
      ]),
    ),
  )
  console.log(`\nThe paper's: scores, higher is better. ${report.scale}\n`)
  console.log(
    table(
      ["method", "BioMed", "Finance"],
      Object.entries(paper).map(([name, row]) => [name, ...row]),
    ),
  )
}
