/** What a run of `peft train` has left, for checks that compare runs. */
import { readFileSync } from "node:fs"
import { join } from "node:path"

/** Of the JSON that it prints. */
export interface Trained {
  readonly steps: number
  readonly seconds: number
  readonly kernels: string
}

/** The loss of every step in the output folder's metrics. */
export function lossesIn(output: string): number[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n")
  return lines.map((line) => JSON.parse(line).loss)
}

/** Largest relative difference; infinite where there are not equally many. */
export function largestRatio(losses: readonly number[], expected: readonly number[]): number {
  if (losses.length !== expected.length || losses.length === 0) return Number.POSITIVE_INFINITY
  return Math.max(...expected.map((value, i) => Math.abs((losses[i] as number) - value) / Math.abs(value)))
}
