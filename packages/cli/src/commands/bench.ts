/** `peft bench`: how long a training step takes on made-up rows, against how fast this machine multiplies. */
import { gemmGflops } from "@peftjs/backend-cpu/node"
import { loadCausalLM } from "@peftjs/models/node"
import { jsonl, type StepMetrics, train } from "@peftjs/train"
import type { Command } from "commander"
import pc from "picocolors"
import { type BackendFlags, kernelsOf, makeBackend } from "../backend.ts"
import { locate } from "../hub/locate.ts"
import { printJson } from "../json.ts"
import { commonOptions, required, whole } from "../options.ts"
import { peakRssMb } from "../process-memory.ts"
import { countParameters, makeTrainable } from "../trainable.ts"

interface BenchFlags extends BackendFlags {
  readonly model?: string
  readonly method: string
  readonly r?: number
  readonly batchSize: number
  readonly seqLength: number
  readonly steps: number
  readonly gradientCheckpointing?: boolean
  readonly json?: boolean
}

const learningRate = 1e-4
/** Forward and backward through a frozen base; with the base's own gradients, half as much again. Recomputing is not counted. */
const flopsPerParameter = { frozen: 4, full: 6 }

export function addBench(program: Command): void {
  commonOptions(program.command("bench").description("measure training steps on made-up rows"))
    .option("--model <dir>", "Hugging Face model folder, or ORG/NAME[@REVISION] of the hub")
    .option("--method <name>", "lora, full, another package or a path", "lora")
    .addOption(whole("--r <n>", "rank"))
    .addOption(whole("--batch-size <n>", "rows per step", { min: 1 }).default(4))
    .addOption(whole("--seq-length <n>", "tokens per row", { min: 2 }).default(256))
    .addOption(whole("--steps <n>", "steps to measure, after one that is reported apart", { min: 1 }).default(3))
    .option("--gradient-checkpointing", "keep only the inputs of blocks")
    .action(runBench)
}

async function runBench(flags: BenchFlags): Promise<void> {
  const { batchSize, seqLength, steps, method } = flags
  const started = performance.now()
  const backend = await makeBackend(flags)
  const { folder, name } = await locate(required(flags.model, "--model"), "model")
  const base = await loadCausalLM(folder, { backend, name })
  const vocabulary = base.sites.get(base.head)?.out as number
  const lora =
    method === "full" ? {} : { targetModules: "all-linear", ...(flags.r === undefined ? {} : { r: flags.r }) }
  const model = await makeTrainable(base, { method, seed: 0, ...lora }, () => {})
  const sizes = countParameters(model)
  const loadSeconds = (performance.now() - started) / 1000

  const done: StepMetrics[] = []
  const seconds: number[] = []
  let last = performance.now()
  await train(model, jsonl(rows(batchSize, seqLength, vocabulary), "made-up rows"), {
    ...{ maxSteps: steps + 1, batchSize, maxLength: seqLength, learningRate, scheduler: "constant", shuffle: false },
    gradientCheckpointing: flags.gradientCheckpointing ?? false,
    onStep(metrics) {
      done.push(metrics)
      seconds.push((performance.now() - last) / 1000)
      process.stderr.write(
        pc.dim(`step ${metrics.step}: ${seconds.at(-1)?.toFixed(2)} s, loss ${metrics.loss.toFixed(4)}\n`),
      )
      last = performance.now()
    },
  })
  const peak = peakRssMb()
  const tokens = batchSize * seqLength
  const [first, ...measured] = seconds
  const step = median(measured)
  const flops = (method === "full" ? flopsPerParameter.full : flopsPerParameter.frozen) * sizes.base * tokens
  const gflops = flops / step / 1e9
  const gemm = await gemmGflops(backend)
  const result = {
    step_s: step,
    tokens_per_s: tokens / step,
    peak_rss_mb: peak,
    trainable: sizes.trainable,
    kernels: kernelsOf(backend),
    gflops,
    gemm_gflops: gemm,
    efficiency: gflops / gemm,
    first_step_s: first,
    load_s: loadSeconds,
    losses: done.map(({ loss }) => loss),
  }
  if (flags.json) printJson(result)
  else
    process.stdout.write(
      `${Object.entries(result)
        .map(([key, value]) => `${key}: ${value}`)
        .join("\n")}\n`,
    )
}

/** The same rows in every step, and in every language this was measured in. Every token is predicted from those before it. */
function rows(batch: number, tokens: number, vocabulary: number): object[] {
  return Array.from({ length: batch }, (_, b) => {
    const ids = Array.from({ length: tokens }, (_, t) => ((((b * tokens + t) * 7919) % 40_000) + 5) % vocabulary)
    return { input_ids: ids, labels: ids }
  })
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const [low, high] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.ceil((sorted.length - 1) / 2)]]
  return ((low as number) + (high as number)) / 2
}
