/** What was measured as tables, as verdicts and as a file. Must not know how it was measured. */
import { writeResult } from "../results.ts"
import type { Measured, Settings } from "./contenders.ts"
import { median, type Outcome, targetsOf } from "./outcome.ts"

/** Returns whether every target that is required is met. */
export function report(outcomes: readonly Outcome[]): boolean {
  console.log("\nMedians over rounds; ratios: PyTorch's time to ours (above 1: we are faster), our memory to PyTorch's")
  console.table(
    outcomes
      .flatMap(({ case: { name }, ours: own, theirs: other }) => [
        row(name, "PyTorch", other),
        row(name, "peftjs", own),
      ])
      .filter((r) => r !== undefined),
  )
  console.table(
    outcomes.flatMap(({ case: { name }, figures }) => (figures ? [{ case: name, ...rounded(figures) }] : [])),
  )
  for (const {
    case: { name },
    ours: own,
    theirs: other,
  } of outcomes)
    console.log(`losses, ${name}: ${listed(own[0])} here, ${listed(other[0])} in PyTorch`)
  console.log("")
  let good = true
  for (const outcome of outcomes)
    for (const { case: name, what, value, atLeast, atMost, goal, met } of targetsOf(outcome)) {
      const verdict = met ? "pass" : goal ? "not yet" : "FAIL"
      const limit = atLeast === undefined ? `at most ${digits(atMost as number)}` : `at least ${digits(atLeast)}`
      console.log(`${verdict.padEnd(8)}${name}: ${what} ${digits(value)}, ${goal ? "goal" : "required"} ${limit}`)
      if (!met && !goal) good = false
    }
  return good
}

function row(name: string, who: string, all: readonly Measured[]): object | undefined {
  if (all.length === 0) return undefined
  const of = (key: "step_s" | "cpu_step_s" | "first_step_s" | "load_s" | "peak_rss_mb" | "gemm_gflops"): number =>
    median(all.map((m) => m[key]))
  return {
    case: name,
    by: who,
    "step, s": digits(of("step_s")),
    "processor, s": digits(of("cpu_step_s")),
    "first step, s": digits(of("first_step_s")),
    "load, s": digits(of("load_s")),
    "peak, MiB": Math.round(of("peak_rss_mb")),
    "sgemm, GFLOPS": Math.round(of("gemm_gflops")),
    ...(all[0]?.packed ? { "bits a parameter": digits(all[0].packed.bits_per_value) } : {}),
  }
}

const digits = (x: number): number => Number(x.toPrecision(4))
const rounded = (of: object): object => Object.fromEntries(Object.entries(of).map(([key, x]) => [key, digits(x)]))
const listed = (m: Measured | undefined): string => m?.losses.map((loss) => loss.toFixed(4)).join(", ") ?? "–"

export function save(
  path: string,
  { model, python: _, blas: __, adapter: ___, ...settings }: Settings,
  outcomes: readonly Outcome[],
): void {
  const targets = outcomes.flatMap(targetsOf)
  const versions = Object.assign({}, ...outcomes.flatMap(({ theirs: all }) => all.map((m) => m.versions)))
  writeResult(path, { what: "bench:torch", model: model.split("/").at(-1), settings, versions, outcomes, targets })
}
