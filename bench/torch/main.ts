/**
 * `npm run bench:torch`: training steps here and in PyTorch + PEFT + bitsandbytes, process after process in turn on the same rows from the
 * same adapter. Prints medians, ratios and targets; ends with 1 where a target that is required is missed.
 */
import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { availableParallelism, cpus, tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"
import { fastestBlas, setUp, setUpPython } from "../../scripts/interop/setup.ts"
import { type Case, type Measured, ours, type Settings, theirs } from "./contenders.ts"
import { figuresOf, type Outcome } from "./outcome.ts"
import { report, save } from "./report.ts"

const usage = `npm run bench:torch -- [--model DIR] [--method lora|full|qlora] [--checkpointing] [--dtype fp32|bf16] [--batch-size 4]
  [--seq-length 256] [--steps 2] [--rounds 2] [--r 8] [--threads N] [--kernels reference|wasm|blas] [--json FILE]
Without --method: LoRA, full, LoRA with checkpointing and QLoRA, and one step of PyTorch's LoRA in bf16.`

const matrix: readonly Case[] = [
  { name: "LoRA", method: "lora", checkpointing: false, dtype: "fp32" },
  { name: "QLoRA", method: "qlora", checkpointing: false, dtype: "fp32" },
  { name: "LoRA, checkpointing", method: "lora", checkpointing: true, dtype: "fp32" },
  { name: "full", method: "full", checkpointing: false, dtype: "fp32" },
  { name: "LoRA, PyTorch in bf16", method: "lora", checkpointing: false, dtype: "bf16", alone: true },
]

try {
  await main()
} catch (error) {
  console.error(`bench:torch: ${(error as Error).message}`)
  process.exitCode = 2
}

async function main(): Promise<void> {
  const string = { type: "string" } as const
  const { values } = parseArgs({
    options: {
      ...{ model: string, method: string, dtype: string, "batch-size": string, "seq-length": string, steps: string },
      ...{ rounds: string, r: string, threads: string, kernels: string, json: string },
      ...{ checkpointing: { type: "boolean" }, help: { type: "boolean" } },
    },
  })
  if (values.help) return console.log(usage)
  const cases = casesOf(values)
  const { method: _, dtype: __, model, kernels, json } = values
  const threads = whole("threads", values.threads ?? String(availableParallelism()))
  bind(threads)
  const peers = model === undefined ? await setUp() : { ...(await setUpPython()), model: resolve(model) }
  const work = mkdtempSync(join(tmpdir(), "peftjs-bench-"))
  const settings: Settings = {
    ...{ python: peers.python, blas: await fastestBlas(peers), model: peers.model, threads },
    ...{
      batch: whole("batch-size", values["batch-size"] ?? "4"),
      tokens: whole("seq-length", values["seq-length"] ?? "256"),
    },
    ...{ steps: whole("steps", values.steps ?? "2"), r: whole("r", values.r ?? "8") },
    ...{ adapter: join(work, "adapter"), ...(kernels === undefined ? {} : { kernels }) },
  }
  console.log(
    `${cpus()[0]?.model.trim()}, ${threads} of ${cpus().length} cores; ${settings.batch} rows of ${settings.tokens} tokens`,
  )
  const outcomes: Outcome[] = []
  try {
    for (const one of cases) {
      outcomes.push(await measure(one, settings, whole("rounds", values.rounds ?? "2")))
      if (json !== undefined) save(resolve(json), settings, outcomes)
    }
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
  if (!report(outcomes)) process.exitCode = 1
}

function casesOf(values: { method?: string; checkpointing?: boolean; dtype?: string }): readonly Case[] {
  const { method, checkpointing = false, dtype = "fp32" } = values
  if (method === undefined) {
    if (checkpointing || values.dtype !== undefined) throw new Error("--checkpointing and --dtype need --method")
    return matrix
  }
  if (method !== "lora" && method !== "full" && method !== "qlora")
    throw new Error(`--method must be lora, full or qlora, not ${method}`)
  if (dtype !== "fp32" && dtype !== "bf16") throw new Error(`--dtype must be fp32 or bf16, not ${dtype}`)
  const known = matrix.find((c) => c.method === method && c.checkpointing === checkpointing && c.dtype === dtype)
  const name = [method, ...(checkpointing ? ["checkpointing"] : []), ...(dtype === "bf16" ? ["bf16"] : [])].join(", ")
  return [{ name: known?.name ?? name, method, checkpointing, dtype }]
}

function whole(name: string, text: string): number {
  const value = Number(text)
  if (Number.isInteger(value) && value >= 1) return value
  throw new Error(`--${name} must be a whole number of at least 1, not ${text}`)
}

/** Both see so many processors and take as many threads. */
function bind(threads: number): void {
  if (threads === availableParallelism()) return
  if (threads > availableParallelism() || process.platform !== "linux")
    throw new Error(`--threads ${threads}: this process may use ${availableParallelism()}; fewer can be had on Linux`)
  execFileSync("taskset", ["--all-tasks", "--cpu-list", "--pid", `0-${threads - 1}`, String(process.pid)])
}

async function measure(one: Case, settings: Settings, rounds: number): Promise<Outcome> {
  const [own, other]: [Measured[], Measured[]] = [[], []]
  for (let round = 0; round < (one.alone ? 1 : rounds); round++) {
    other.push(await theirs(one, settings))
    if (!one.alone) own.push(await ours(one, settings))
    const seconds = [other, own].map((all) => all.at(-1)?.step_s.toFixed(2) ?? "–")
    console.error(`${one.name}, round ${round + 1}: PyTorch ${seconds[0]} s, peftjs ${seconds[1]} s a step`)
  }
  return { case: one, ours: own, theirs: other, ...(one.alone ? {} : { figures: figuresOf(own, other) }) }
}
