/** The two that are compared: `peft bench`, and PyTorch doing the same steps, each in a process of its own. Must not know what is expected of them. */
import { join } from "node:path"
import { runPeft, runPython } from "../../scripts/interop/programs.ts"
import type { Peers } from "../../scripts/interop/setup.ts"

/** One thing to measure. */
export interface Case {
  readonly name: string
  readonly method: "lora" | "full" | "qlora"
  readonly checkpointing: boolean
  /** What PyTorch computes in; we compute in f32. */
  readonly dtype: "fp32" | "bf16"
  /** For the record alone: nothing of ours beside it, and one step. */
  readonly alone?: boolean
}

/** What holds for all cases of a run. */
export interface Settings extends Pick<Peers, "python" | "blas"> {
  readonly model: string
  readonly batch: number
  readonly tokens: number
  /** After one that is reported apart. */
  readonly steps: number
  readonly threads: number
  readonly r: number
  /** Of our CPU backend, where not the best there are. */
  readonly kernels?: string
  /** Where the adapter that both start from is kept: written by PyTorch's first run. */
  readonly adapter: string
}

/** As `peft bench --json` calls it. */
export interface Measured {
  readonly step_s: number
  readonly cpu_step_s: number
  readonly first_step_s: number
  readonly load_s: number
  readonly peak_rss_mb: number
  readonly trainable: number
  readonly kernels: string
  readonly gemm_gflops: number
  readonly efficiency?: number
  readonly losses: readonly number[]
  readonly packed?: { readonly bits_per_value: number }
  readonly versions?: Readonly<Record<string, string>>
}

export async function ours({ method, checkpointing }: Case, settings: Settings): Promise<Measured> {
  const { model, batch, tokens, steps, r, kernels, adapter, blas } = settings
  const start = method === "full" ? [] : ["--init-adapter", adapter, "--r", String(r)]
  const optional = [...(checkpointing ? ["--gradient-checkpointing"] : []), ...(kernels ? ["--kernels", kernels] : [])]
  const size = ["--batch-size", String(batch), "--seq-length", String(tokens), "--steps", String(steps)]
  const args = ["bench", "--model", model, "--method", method, ...start, ...optional, ...size, "--json"]
  return JSON.parse(await runPeft(args, blas)) as Measured
}

export async function theirs(given: Case, settings: Settings): Promise<Measured> {
  const { method, checkpointing, dtype, alone } = given
  const { python, blas: _, kernels: __, ...rest } = settings
  const job = { ...rest, method, checkpointing, dtype, ...(alone ? { steps: 1 } : {}) }
  return runPython<Measured>(python, join(import.meta.dirname, "step.py"), [JSON.stringify(job)])
}
