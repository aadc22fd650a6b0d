/** A dry run for people: layers that differ by their number alone on one line, columns that line up. */
import pc from "picocolors"
import type { DryRun } from "./dry-run.ts"
import { estimateParts } from "./memory/estimate.ts"

export function describeDryRun(run: DryRun): string {
  const { method, trainable, total, trainable_percent, sites, whole, unmatched } = run
  return [
    `${method} would train ${pc.bold(count(trainable))} of ${count(total)} parameters (${trainable_percent.toFixed(2)} %)`,
    ...section("layers", sites),
    ...section("trained whole", whole),
    ...(unmatched.length === 0
      ? []
      : ["", pc.red("targets that select nothing; training is refused until they are gone")]),
    ...unmatched.map(({ target, hint }) => `  ${target}: ${hint}`),
    ...restarts(run),
    ...(run.memory_mb ? ["", ...describeMemory(run)] : []),
  ].join("\n")
}

const count = (n: number): string => n.toLocaleString("en")

interface Entry {
  readonly path: string
  readonly shape: readonly number[]
  readonly parameters: number
}

function section(title: string, entries: readonly Entry[]): string[] {
  if (entries.length === 0) return []
  const lines = grouped(entries).map(({ path, numbers, entry: { shape, parameters } }) => {
    const n = Math.max(1, numbers.length)
    return [
      path,
      `[${shape.join(", ")}]`,
      numbers.length > 0 ? ranges(numbers) : "",
      count(parameters),
      count(n * parameters),
    ]
  })
  return ["", ...columns([[title, "shape", "numbers", "parameters", "in all"], ...lines])]
}

interface Group {
  readonly path: string
  readonly numbers: number[]
  readonly entry: Entry
}

/** "model.layers.0.mlp.up_proj" and the like of the same size are one line. */
function grouped(entries: readonly Entry[]): Group[] {
  const groups = new Map<string, Group>()
  for (const entry of entries) {
    const number = /(?<=\.)\d+(?=\.)/.exec(entry.path)?.[0]
    const path = number === undefined ? entry.path : entry.path.replace(`.${number}.`, ".*.")
    const key = `${path} ${entry.shape} ${entry.parameters}`
    const group = groups.get(key) ?? { path, numbers: [], entry }
    if (number !== undefined) group.numbers.push(Number(number))
    groups.set(key, group)
  }
  return [...groups.values()]
}

/** "0–11, 14". */
function ranges(numbers: readonly number[]): string {
  const runs: [number, number][] = []
  for (const n of [...numbers].sort((a, b) => a - b)) {
    const last = runs.at(-1)
    if (last && last[1] === n - 1) last[1] = n
    else runs.push([n, n])
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ")
}

/** The first column to the left, the others to the right. */
function columns(lines: readonly (readonly string[])[]): string[] {
  const widths = (lines[0] ?? []).map((_, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)))
  return lines.map((line, row) => {
    const text = line
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join("  ")
    return row === 0 ? pc.dim(text.trimEnd()) : text.trimEnd()
  })
}

function restarts({ restart }: DryRun): string[] {
  if (!restart) return []
  const { every, warmup, optimizer_reset, warm_start_steps, restarts: n } = restart
  const first = warm_start_steps > 0 ? `${count(warm_start_steps)} steps of full training, then ` : ""
  const times = n === null ? "restarts" : `${count(n)} restarts`
  return ["", `${first}${times}, one every ${count(every)} steps (warm-up ${warmup}, averages: ${optimizer_reset})`]
}

/** The estimate alone, a line for each of its parts; nothing where no layer is selected. */
export function describeMemory({ memory_mb, batch }: Pick<DryRun, "memory_mb" | "batch">): string[] {
  if (!memory_mb || !batch) return []
  const lines = Object.entries(estimateParts).flatMap(([part, what]) => {
    const mb = memory_mb[part as keyof typeof estimateParts]
    if (mb === undefined) return []
    const size = count(Math.round(mb))
    return `  ${part.padEnd(12)}${size.padStart(8)} MB  ${pc.dim(what)}`
  })
  const rows = `${batch.rows} rows of ${batch.tokens} tokens`
  return [`about ${pc.bold(`${count(Math.round(memory_mb.total))} MB`)} of memory for ${rows}`, ...lines]
}
