/**
 * Five hundred steps with rows of random lengths must not need more memory than twenty: the resident memory of `peft train`, read from outside
 * while it runs. V8 gets so little room that what it has not collected yet cannot hide or feign growth: a young generation of 1 MiB, an old one of 72;
 * and no optimising compiler, which works on while the first hundred steps run, and whose code would be growth.
 */
import { spawn } from "node:child_process"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type Context, finish } from "../programs.ts"
import { repository } from "../setup.ts"

const [steps, early, window] = [500, 20, 10]
/** Of resident memory, by the end. */
const allowed = 0.03
const milliseconds = 5
const littleRoom = ["--max-semi-space-size=1", "--max-old-space-size=72", "--no-opt"]

/** PEFT_BLAS, "" for that of the environment, and options. */
const cases: Readonly<Record<string, readonly [blas: string, ...options: string[]]>> = {
  WebAssembly: ["off"],
  "a BLAS": [""],
  "WebAssembly in two replicas": ["off", "--replicas", "2"],
  "a BLAS in two replicas": ["", "--replicas", "2"],
}

export async function resident(context: Context): Promise<void> {
  const data = join(context.folder, "rows.jsonl")
  writeFileSync(
    data,
    rows()
      .map((row) => `${JSON.stringify(row)}\n`)
      .join(""),
  )
  for (const [name, [blas, ...more]] of Object.entries(cases)) {
    const output = join(context.folder, name.replaceAll(" ", "-"))
    const args = ["train", "--model", join(repository, "demo/model"), "--data", data, "--output", output, ...more]
    const recipe = [
      "--method",
      "lora",
      "--target-modules",
      "all-linear",
      "--batch-size",
      "4",
      "--max-steps",
      `${steps}`,
    ]
    const { problem, before, after } = await watch(
      [...args, ...recipe],
      join(output, "metrics.jsonl"),
      blas || context.blas,
    )
    context.expect(
      `${name}: ${steps} steps need no more memory than ${early}`,
      problem === undefined && after <= (1 + allowed) * before,
      problem ?? `${before.toFixed(1)} MB, then ${after.toFixed(1)} MB: ${percent(after / before - 1)}`,
    )
  }
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`

interface Watched {
  readonly problem: string | undefined
  /** MiB: medians about step 20 and before the last. */
  readonly before: number
  readonly after: number
}

async function watch(args: string[], metrics: string, blas: string): Promise<Watched> {
  const bin = join(repository, "packages/cli/bin/peft.js")
  const env = { ...process.env, PEFT_BLAS: blas }
  const child = spawn(process.execPath, [...littleRoom, bin, ...args], { env })
  const ended = finish(child)
  const seen: { readonly step: number; readonly megabytes: number }[] = []
  while (child.exitCode === null && child.signalCode === null) {
    const megabytes = residentMb(child.pid as number)
    if (megabytes !== undefined && existsSync(metrics)) {
      const step = readFileSync(metrics, "utf8").split("\n").length - 1
      seen.push({ step, megabytes })
    }
    await new Promise((done) => setTimeout(done, milliseconds))
  }
  const { code, signal, stderr } = await ended
  const around = (from: number, to: number): number =>
    median(seen.filter(({ step }) => step >= from && step <= to).map(({ megabytes }) => megabytes))
  // The last step's own sample may be of the adapter being written.
  const [before, after] = [around(early - window / 2, early + window / 2), around(steps - 1 - window, steps - 1)]
  const problem =
    code !== 0
      ? `ended with ${code ?? signal}: ${stderr.slice(-300)}`
      : Number.isNaN(before + after)
        ? "ran too fast to be watched"
        : undefined
  return { problem, before, after }
}

/** Undefined once the process is gone. */
function residentMb(pid: number): number | undefined {
  try {
    const found = /^VmRSS:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))
    return found ? Number(found[1]) / 1024 : undefined
  } catch {
    return undefined
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN
}

/** Of 4 to 100 tokens. */
function rows(): { input_ids: number[]; labels: number[] }[] {
  let state = 12345
  const below = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * n)
  }
  return Array.from({ length: 400 }, () => {
    const ids = Array.from({ length: 4 + below(97) }, () => 3 + below(890))
    return { input_ids: ids, labels: ids }
  })
}
