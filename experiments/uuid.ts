/**
 * Memorising random pairs (section 3 of the MoRA paper, arXiv 2405.12130): given a key of hex digits, say its value. Nothing that the
 * base knows helps; what counts is how fast an update of so many parameters takes in new facts.
 */
import { keyOf, type Model, randomWords } from "@peftjs/core"
import { generate } from "@peftjs/models"
import type { Data, Row } from "@peftjs/train"
import { makeBackend, pretrained, untrained } from "./bases.ts"
import { compare } from "./compare.ts"
import { lineChart } from "./plot.ts"
import { chosenOf, courses, type Options, type Report, sweepTable, table, write } from "./report.ts"
import type { Point, Run, Setting } from "./run.ts"
import { adapted, full, loraOf, moraOf, type Variant } from "./variants.ts"

/** Character accuracy in % at steps 300, 500, 700 and 900 of 1,000; LLaMA-2-7B, 10,000 pairs of 32 digits. */
const paper = {
  FFT: [42.5, 100, 100, 100],
  "LoRA r 8": [9.9, 10.0, 10.7, 54.2],
  "MoRA r 8": [10.1, 15.7, 87.4, 100],
  "LoRA r 256": [9.9, 70.6, 100, 100],
  "MoRA r 256": [41.6, 100, 100, 100],
}
const paperSteps = [300, 500, 700, 900]

const digits = "0123456789abcdef"
const [keyDigits, valueDigits] = [6, 8]
/** Every digit is free, so that guessing gets one in sixteen. */
const guess = 100 / 16

export interface Pair {
  readonly key: string
  readonly value: string
}

/** Random pairs with different keys; the seed fixes them. */
export function pairs(count: number, seed: number): Pair[] {
  const found = new Map<string, Pair>()
  const width = keyDigits + valueDigits
  for (let round = 0; found.size < count; round++) {
    const words = randomWords(keyOf(seed, "uuid", round), count * width)
    const text = Array.from(words, (word) => digits[word >>> 28]).join("")
    for (let at = 0; at < text.length && found.size < count; at += width) {
      const key = text.slice(at, at + keyDigits)
      if (!found.has(key)) found.set(key, { key, value: text.slice(at + keyDigits, at + width) })
    }
  }
  return [...found.values()]
}

/** One token per digit: pieces of two digits would make it another task. */
function idsOf(model: Model): (text: string) => number[] {
  const one = new Map(
    [...digits, ":"].map((letter) => [
      letter,
      model.tokenizer?.encode(letter, { addSpecialTokens: false })[0] as number,
    ]),
  )
  return (text) => Array.from(text, (letter) => one.get(letter) as number)
}

function dataOf(model: Model, list: readonly Pair[]): Data {
  const ids = idsOf(model)
  return {
    name: "UUID pairs",
    rows: list.map(({ key, value }): Row => {
      const [prompt, answer] = [ids(`${key}:`), ids(value)]
      return { kind: "ids", ids: [...prompt, ...answer], labels: [...prompt.map(() => -100), ...answer] }
    }),
  }
}

/** Of all digits of all values, the share in % that the model says when it is given the key and writes on by itself. */
async function accuracy(model: Model, list: readonly Pair[]): Promise<number> {
  const ids = idsOf(model)
  let right = 0
  for (let at = 0; at < list.length; at += 128) {
    const some = list.slice(at, at + 128)
    const said = await generate(
      model,
      some.map(({ key }) => ids(`${key}:`)),
      { maxNewTokens: valueDigits, eosTokenId: null },
    )
    for (const [row, { value }] of some.entries())
      right += ids(value).filter((id, place) => said[row]?.[place] === id).length
  }
  return (100 * right) / (list.length * valueDigits)
}

const sizes = { small: 2, large: 16 }

function variants(quick: boolean): Variant[] {
  if (quick)
    return [adapted("LoRA r 8", () => loraOf(8), [3e-2]), adapted("MoRA r 8", () => moraOf(8, "large"), [1e-2])]
  return [
    full([1e-3, 3e-3]),
    ...(["small", "large"] as const).flatMap((size) => [
      adapted(`LoRA r ${sizes[size]}`, () => loraOf(sizes[size]), [3e-3, 1e-2]),
      adapted(`MoRA r ${sizes[size]}`, () => moraOf(sizes[size], size), [3e-3, 1e-2]),
    ]),
  ]
}

const mean = (points: readonly Point[]): number => points.reduce((sum, p) => sum + (p.accuracy as number), 0)

export async function uuid({ quick, seed, folder }: Options): Promise<Report> {
  const [count, steps, every] = quick ? [16, 40, 10] : [96, 300, 15]
  const backend = await makeBackend()
  const base = await (quick ? untrained(backend, seed, true) : pretrained(backend, seed, 300))
  const list = pairs(count, seed)
  console.log(`Memorising ${count} pairs (${keyDigits} digits → ${valueDigits}) in ${steps} steps`)
  const setting: Setting = {
    ...{ base, data: dataOf(base, list), steps, seed, every },
    training: { batchSize: quick ? 16 : 48, scheduler: "linear", warmupSteps: 10 },
    measure: async (model) => ({ accuracy: await accuracy(model, list) }),
    done: (point) => (point.accuracy as number) >= 100,
  }
  // A run that ended because it knows everything would go on so.
  const score = ({ points }: Run): number => mean(points) + 100 * ((steps - (points.at(-1)?.step ?? 0)) / every)
  const { runs, chosen, spectra } = await compare(variants(quick), setting, score, quick ? 0 : 2)
  const report: Report = {
    name: "uuid",
    scale: `The paper: LLaMA-2-7B, 10,000 pairs, 1,000 steps of 1,000 pairs. Here: 158 thousand parameters, ${count} pairs of ${keyDigits} → ${valueDigits} hex digits, ${steps} steps of ${setting.training.batchSize}.`,
    ...{ seed, quick, runs, spectra },
    seconds: runs.reduce((sum, run) => sum + run.seconds, 0),
    found: {
      guess,
      stepsTo99: Object.fromEntries(chosen.map((run) => [run.variant, stepsTo(run, 99)])),
      stepsTo100: Object.fromEntries(chosen.map((run) => [run.variant, stepsTo(run, 100)])),
    },
  }
  write(report, plot(report), folder)
  print(report, chosen, steps)
  return report
}

export function plot(report: Report): string {
  const lines = courses(chosenOf(report), "accuracy")
  const last = Math.max(...lines.flatMap(({ points }) => points.map(([step]) => step)))
  const level = { label: "guessing: 1 in 16", level: true as const, points: [0, last].map((x) => [x, guess] as const) }
  const axes = { title: "at each method's best learning rate", x: "step", y: "characters right, %" }
  return lineChart("Memorising random pairs", [{ ...axes, lines: [...lines, level] }])
}

/** The first measured step with that accuracy. */
function stepsTo({ points }: Run, accuracy: number): number | null {
  return points.find((p) => (p.accuracy as number) >= accuracy)?.step ?? null
}

const at = ({ points }: Run, step: number): string =>
  (points.find((p) => p.step >= step) ?? points.at(-1) ?? { step, accuracy: Number.NaN }).accuracy?.toFixed(1) ?? ""

function print(report: Report, chosen: readonly Run[], steps: number): void {
  const marks = [0.25, 0.5, 0.75, 1].map((share) => Math.round(steps * share))
  console.log("\nAll learning rates (* chosen)\n")
  console.log(sweepTable(report.runs, ["accuracy"]))
  console.log(`\nOurs: characters right in %; guessing gets ${guess}\n`)
  console.log(
    table(
      ["method", "trained", "lr", ...marks.map((m) => `step ${m}`), "99 % at", "100 % at"],
      chosen.map((run) => [
        ...[run.variant, run.parameters, run.learningRate],
        ...marks.map((step) => at(run, step)),
        ...[99, 100].map((share) => stepsTo(run, share) ?? "never"),
      ]),
    ),
  )
  console.log(`\nThe paper's: ${report.scale}\n`)
  console.log(
    table(
      ["method", ...paperSteps.map((s) => `step ${s}`)],
      Object.entries(paper).map(([n, row]) => [n, ...row]),
    ),
  )
}
