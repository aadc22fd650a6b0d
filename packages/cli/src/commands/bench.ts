/** `peft bench`: how long a training step takes on made-up rows, against how fast this machine multiplies, and against another method. */
import { cpu, gemmGflops, type NodeCpuOptions } from "@peftjs/backend-cpu/node"
import { type Communicator, type Model, PeftError } from "@peftjs/core"
import { loadCausalLM } from "@peftjs/models"
import { jsonl, train } from "@peftjs/train"
import { type Command, Option } from "commander"
import pc from "picocolors"
import { type AnyBackend, type BackendFlags, kernelsOf, makeBackend } from "../backend.ts"
import { type Located, locate } from "../hub/locate.ts"
import { inTurn } from "../in-turn.ts"
import { printJson } from "../json.ts"
import { type EstimateInput, estimateMemory, mebibytes } from "../memory/estimate.ts"
import { headersOnly } from "../memory/headers-only.ts"
import { shapeBackend } from "../memory/shape-backend.ts"
import { modelFiles } from "../model-files.ts"
import { commonOptions, repeated, required, whole } from "../options.ts"
import { packedSize } from "../packed-size.ts"
import { peakRssMb } from "../process-memory.ts"
import { between, countsOf, type DeviceCounts } from "../step-counts.ts"
import { type Team, type TeamFlags, teamOf, teamOptions } from "../team.ts"
import { baseLoading, methodOf } from "../train-options.ts"
import { countParameters, type MethodFlags, makeTrainable, type Sizes } from "../trainable.ts"
import { storedFormats, type WeightFlags, type WeightType, weightOptions } from "../weights.ts"

interface BenchFlags extends BackendFlags, WeightFlags, TeamFlags {
  readonly weights?: WeightType
  readonly kernels?: Kernels
  readonly model?: string
  readonly method: string
  readonly initAdapter?: string
  readonly methodOption?: readonly string[]
  readonly compare?: string
  readonly r?: number
  readonly batchSize: number
  readonly seqLength: number
  readonly steps: number
  readonly gradientCheckpointing?: boolean
  readonly json?: boolean
}

type Kernels = Exclude<NonNullable<NodeCpuOptions["kernels"]>, "auto">
const kernelLevels: readonly Kernels[] = ["reference", "wasm", "blas"]

const learningRate = 1e-4

export function addBench(program: Command): void {
  const own = program.command("bench").description("measure training steps on made-up rows")
  commonOptions(weightOptions(own, "--weights", "quantise the base's linear layers while loading"))
    .addOption(new Option("--kernels <level>", "insist on these kernels of the CPU backend").choices(kernelLevels))
    .option("--model <dir>", "Hugging Face model folder, .gguf file, or ORG/NAME[@REVISION] of the hub")
    .option("--method <name>", "lora, mora, full, qlora, another package or a path", "lora")
    .option("--init-adapter <dir>", "start from this PEFT adapter")
    .addOption(
      repeated("--method-option <k=v>", "another option of the method, by its name or PEFT's; several allowed"),
    )
    .option("--compare <name>", "another method, whose steps are measured in turn with those of --method")
    .addOption(whole("--r <n>", "rank, of both"))
    .addOption(whole("--batch-size <n>", "rows per step", { min: 1 }).default(4))
    .addOption(whole("--seq-length <n>", "tokens per row", { min: 2 }).default(256))
    .addOption(whole("--steps <n>", "steps to measure, after one that is reported apart", { min: 1 }).default(3))
    .option("--gradient-checkpointing", "keep only the inputs of blocks")
  teamOptions(own).action(runBench)
}

async function runBench(flags: BenchFlags): Promise<void> {
  const located = await locate(required(flags.model, "--model"), "model")
  const asStored = baseLoading(flags) === undefined
  const trainsBase = methodOf(flags) === "full"
  const team = await teamOf(flags, { ...flags, folder: located.folder, asStored, trainsBase })
  try {
    await benchWith(team, flags, located)
  } finally {
    await team.stop()
  }
}

async function benchWith(team: Team, flags: BenchFlags, { folder, name }: Located): Promise<void> {
  const { batchSize, seqLength, steps, compare } = flags
  const [method, loading] = [methodOf(flags), baseLoading(flags)]
  const taken = process.memoryUsage.rss()
  const started = performance.now()
  const backend = await backendOf({ ...flags, threads: team.threads })
  const base = await loadCausalLM(team.through(modelFiles(folder)), {
    backend,
    name,
    ...loading,
    formats: storedFormats,
  })
  const packed = packedSize(base)
  const batch = rows(batchSize, seqLength, base.sites.get(base.head)?.out as number)
  const data = jsonl(batch, "made-up rows")
  const options: EstimateInput["options"] = {
    ...{ maxSteps: steps + 1, batchSize, maxLength: seqLength, learningRate, scheduler: "constant", shuffle: false },
    ...{ gradientAccumulationSteps: 1, gradientCheckpointing: flags.gradientCheckpointing ?? false },
  }
  const makings = [{ method, ...own(flags) }, ...(compare === undefined ? [] : [{ method: compare }])].map((given) => ({
    ...given,
    ...(given.method === "full" ? {} : onLayers(flags)),
    seed: 0,
  }))
  const [runs, rates]: [Run[], number[]] = [[], []]
  for (const making of makings) {
    const model = await makeTrainable(base, making, () => {})
    runs.push({ making, model, sizes: countParameters(model), seconds: [], cpu: [], losses: [], counts: [] })
  }
  const loadSeconds = (performance.now() - started) / 1000
  const communicator = team.join()

  await inTurn(runs, async ({ making, model, seconds, cpu, losses, counts }, next) => {
    let [last, used, asked] = [performance.now(), process.cpuUsage(), countsOf(backend)]
    await train(model, data, {
      ...{ ...options, communicator },
      async onStep(metrics) {
        seconds.push((performance.now() - last) / 1000)
        const { user, system } = process.cpuUsage(used)
        cpu.push((user + system) / 1e6)
        losses.push(metrics.loss)
        const now = countsOf(backend)
        if (asked && now) counts.push(between(asked, now))
        const time = `${seconds.at(-1)?.toFixed(2)} s, loss ${metrics.loss.toFixed(4)}`
        if (team.leads)
          process.stderr.write(
            pc.dim(`${compare === undefined ? "" : `${making.method} `}step ${metrics.step}: ${time}\n`),
          )
        // Between the steps, so that whatever else the machine does slows both alike.
        rates.push(await machineGflops(backend, communicator))
        await next()
        last = performance.now()
        used = process.cpuUsage()
        asked = countsOf(backend)
      },
    })
  })
  const peak = peakRssMb()
  if (!team.leads) return
  const [run, other] = runs as [Run, Run | undefined]
  const tokens = batchSize * seqLength
  const [step, used] = [run.seconds, run.cpu].map((all) => median(all.slice(1))) as [number, number]
  const work = await counted(run.making)
  const [gflops, gemm] = [work.flops / step / 1e9, median(rates)]
  const result = {
    step_s: step,
    tokens_per_s: tokens / step,
    peak_rss_mb: peak,
    trainable: run.sizes.trainable,
    kernels: kernelsOf(backend),
    replicas: team.size,
    gflops,
    gemm_gflops: gemm,
    efficiency: gflops / gemm,
    first_step_s: run.seconds[0],
    load_s: loadSeconds,
    losses: run.losses,
    cpu_step_s: used,
    // Every step but the first asks the same.
    ...run.counts.at(-1),
    ...(packed ? { packed } : {}),
    ...(other ? await comparison(run, other, work.mb) : {}),
  }
  if (flags.json) printJson(result)
  else
    process.stdout.write(
      `${Object.entries(result)
        .map(([key, value]) => `${key}: ${key === "packed" ? JSON.stringify(value) : value}`)
        .join("\n")}\n`,
    )

  /** Memory is counted, since two methods in one process have one peak. */
  async function comparison(a: Run, b: Run, mb: number): Promise<object> {
    const { mb: otherMb } = await counted(b.making)
    return {
      compared_with: b.making.method,
      compared_step_s: median(b.seconds.slice(1)),
      compared_trainable: b.sizes.trainable,
      // Of steps that followed each other; processor time is what other programs change least.
      step_ratio: ratio(a.seconds, b.seconds),
      cpu_ratio: ratio(a.cpu, b.cpu),
      trainable_ratio: a.sizes.trainable / b.sizes.trainable,
      estimated_mb: mb,
      compared_estimated_mb: otherMb,
      memory_ratio: mb / otherMb,
    }
  }

  /** One step of all rows, nothing of it computed twice. */
  async function counted(making: MethodFlags): Promise<{ mb: number; flops: number }> {
    const shapes = shapeBackend(backend)
    const empty = await loadCausalLM(headersOnly(modelFiles(folder)), {
      ...{ backend: shapes, name, ...loading, formats: storedFormats },
    })
    const attach = (observed: Model): Promise<Model> => makeTrainable(observed, making, () => {})
    const given = { base: empty, backend: shapes, attach, batch, process: taken }
    const { total } = await estimateMemory({ ...given, options })
    const before = shapes.flops()
    await estimateMemory({ ...given, options: { ...options, gradientCheckpointing: false } })
    return { mb: mebibytes(total), flops: shapes.flops() - before }
  }
}

/** Of all replicas at once: what the machine multiplies while they share it. */
async function machineGflops(backend: AnyBackend, communicator: Communicator): Promise<number> {
  await communicator.barrier()
  const rates = Float64Array.of(await gemmGflops(backend))
  await communicator.allReduce([rates])
  return rates[0] as number
}

interface Run {
  readonly making: MethodFlags
  readonly model: Model
  readonly sizes: Sizes
  /** Of every step, by the clock and of processor time. */
  readonly seconds: number[]
  readonly cpu: number[]
  readonly losses: number[]
  /** Where the backend counts. */
  readonly counts: DeviceCounts[]
}

/** Throws E_OPTION for kernels of a backend that has no such choice, and what the factories throw. */
async function backendOf(flags: BenchFlags): Promise<AnyBackend> {
  const { kernels, backend, maxBufferBytes, threads } = flags
  if (kernels === undefined) return makeBackend(flags)
  if (backend !== "cpu")
    throw new PeftError(
      "E_OPTION",
      `[cli] --kernels ${kernels} is a choice of the CPU backend; leave out --backend ${backend}`,
    )
  return cpu({
    kernels,
    ...(maxBufferBytes === undefined ? {} : { maxBufferBytes }),
    ...(threads === undefined ? {} : { threads }),
  })
}

const own = ({ methodOption, initAdapter }: BenchFlags): Pick<MethodFlags, "methodOption" | "initAdapter"> => ({
  ...(methodOption === undefined ? {} : { methodOption }),
  ...(initAdapter === undefined ? {} : { initAdapter }),
})

const onLayers = ({ r }: BenchFlags): Partial<MethodFlags> => ({
  targetModules: "all-linear",
  ...(r === undefined ? {} : { r }),
})

/** The same rows in every step, and in every language this was measured in. Every token is predicted from those before it. */
function rows(batch: number, tokens: number, vocabulary: number): object[] {
  return Array.from({ length: batch }, (_, b) => {
    const ids = Array.from({ length: tokens }, (_, t) => ((((b * tokens + t) * 7919) % 40_000) + 5) % vocabulary)
    return { input_ids: ids, labels: ids }
  })
}

/** Of the steps after the first. */
function ratio(a: readonly number[], b: readonly number[]): number {
  return median(a.slice(1).map((s, i) => s / (b[i + 1] as number)))
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const [low, high] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.ceil((sorted.length - 1) / 2)]]
  return ((low as number) + (high as number)) / 2
}
