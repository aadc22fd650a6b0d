/** What an experiment leaves behind: a table on the terminal, a JSON file and a plot. Must not know what was measured. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { root } from "./bases.ts"
import type { Spectrum } from "./deltas.ts"
import type { Line } from "./plot.ts"
import type { Point, Run } from "./run.ts"

export interface Report {
  readonly name: string
  /** One sentence: what the paper had, and what this has. */
  readonly scale: string
  readonly seed: number
  /** Run in CI, too short to say anything. */
  readonly quick: boolean
  /** Of processor time, all runs together. */
  readonly seconds: number
  /** Every run of the sweeps; `set` names the data where there are several. */
  readonly runs: readonly (Run & { readonly set?: string; readonly chosen?: true })[]
  /** By variant, of the runs that were chosen. */
  readonly spectra: Readonly<Record<string, readonly Spectrum[]>>
  /** Whatever else was found. */
  readonly found: Readonly<Record<string, unknown>>
}

export interface Options {
  readonly quick: boolean
  readonly seed: number
  /** Where JSON and SVG go. */
  readonly folder: string
}

/** What is checked in; quick runs go where git does not look. */
export const resultsFolder = (quick: boolean): string =>
  quick ? join(root, "out", "experiments", "quick") : join(root, "experiments", "results")

export function write(report: Report, plot: string, folder: string): void {
  mkdirSync(folder, { recursive: true })
  const rounded = (_: string, x: unknown): unknown => (typeof x === "number" ? Number(x.toPrecision(6)) : x)
  // One run per line: a file that diffs well and stays small.
  const lists = { runs: report.runs, spectra: Object.entries(report.spectra) }
  const { runs: _, spectra: __, ...rest } = report
  const text = JSON.stringify(rest, rounded, 2).slice(0, -2)
  const runs = lists.runs.map((run) => `    ${JSON.stringify(run, rounded)}`).join(",\n")
  const spectra = lists.spectra
    .map(([name, list]) => `    ${JSON.stringify(name)}: ${JSON.stringify(list, rounded)}`)
    .join(",\n")
  const json = `${text},\n  "runs": [\n${runs}\n  ],\n  "spectra": {\n${spectra}\n  }\n}\n`
  writeFileSync(join(folder, `${report.name}.json`), json)
  writeFileSync(join(folder, `${report.name}.svg`), plot)
}

/** A report written before, or undefined. */
export function read(name: string, folder: string): Report | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, `${name}.json`), "utf8"))
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined
    throw error
  }
}

/** The runs that were chosen, of one set of data where there are several. */
export function chosenOf({ runs }: Report, set?: string): Report["runs"] {
  return runs.filter((run) => run.chosen && run.set === set)
}

/** One line per run: how a number went. */
export function courses(runs: readonly Run[], key: string, from = 0): Line[] {
  return runs.map(({ variant, points }) => ({
    label: variant,
    points: points.filter(({ step }) => step >= from).map((p) => [p.step, p[key] as number] as const),
  }))
}

/** One line per variant through the ends of its sweep, by learning rate: what one number costs in another. */
export function tradeOff(runs: readonly Run[], x: string, y: string): Line[] {
  const ends = (variant: string): Line["points"] =>
    runs
      .filter((run) => run.variant === variant && !run.diverged)
      .map(({ points }) => points.at(-1) as Point)
      .map((end) => [end[x] as number, end[y] as number] as const)
  return [...new Set(runs.map(({ variant }) => variant))].map((label) => ({ label, points: ends(label) }))
}

/** Columns aligned by spaces; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const cells = [head, ...rows].map((row) => row.map(String))
  const widths = head.map((_, c) => Math.max(...cells.map((row) => (row[c] ?? "").length)))
  const lines = cells.map((row) =>
    row.map((cell, c) => (c === 0 ? cell.padEnd(widths[c] as number) : cell.padStart(widths[c] as number))).join("  "),
  )
  return [lines[0], widths.map((w) => "-".repeat(w)).join("  "), ...lines.slice(1)].join("\n")
}

/** All learning rates of the sweeps with their last numbers; the chosen ones have a star. */
export function sweepTable(runs: Report["runs"], metrics: readonly string[]): string {
  const sets = runs.some((run) => run.set !== undefined)
  return table(
    [...(sets ? ["data"] : []), "method", "learning rate", "step", ...metrics],
    runs.map((run) => [
      ...(sets ? [run.set ?? ""] : []),
      run.variant,
      `${run.learningRate}${run.chosen ? " *" : "  "}`,
      run.points.at(-1)?.step ?? 0,
      ...metrics.map((key) => (run.diverged ? "diverged" : (run.points.at(-1)?.[key] ?? Number.NaN).toFixed(3))),
    ]),
  )
}
