/**
 * `npm run bench:growth`: how time and memory of a LoRA step grow on the CPU. Small made-up Llamas, of which one size at a time is doubled;
 * straight lines through the logarithms give exponents, which must not exceed their bounds. Time is processor time, the fastest of a few
 * steps; memory is the most that the backend's buffers held at once during a step, the model's own included.
 */
import { parseArgs } from "node:util"
import { type CpuBackend, cpu } from "@peftjs/backend-cpu/node"
import { adapt, type Backend, bytesPerElement, type DeviceBuffer } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { initCausalLM } from "@peftjs/models"
import { jsonl, train } from "@peftjs/train"
import { writeResult } from "./results.ts"

/** What a step depends on; a sequence's length counts beside the rows because attention is a square in it. */
interface Sizes {
  readonly rows: number
  readonly tokens: number
  readonly layers: number
  readonly rank: number
  readonly vocabulary: number
}

/** A size that is doubled; the others are such that it matters. */
interface Axis {
  readonly name: keyof Sizes
  readonly values: readonly number[]
  readonly others: Partial<Sizes>
}

const usual: Sizes = { rows: 2, tokens: 128, layers: 2, rank: 8, vocabulary: 512 }
const axes: readonly Axis[] = [
  { name: "rows", values: [1, 2, 4, 8], others: {} },
  { name: "tokens", values: [128, 256, 512, 1024], others: {} },
  { name: "layers", values: [2, 4, 8, 16], others: {} },
  { name: "rank", values: [16, 32, 64, 128], others: {} },
  { name: "vocabulary", values: [4096, 8192, 16_384, 32_768], others: { layers: 1 } },
]

/** By how much an exponent may exceed its bound: caches that no longer suffice, and the noise of a machine that does other work. */
const margin = 0.15

const [hidden, inner, heads] = [192, 512, 3]

interface Measured {
  readonly milliseconds: number
  readonly megabytes: number
}

interface Growth {
  readonly axis: keyof Sizes
  readonly values: readonly number[]
  readonly measured: readonly Measured[]
  /** Of least squares through the logarithms. */
  readonly time: { readonly exponent: number; readonly bound: number }
  readonly memory: { readonly exponent: number; readonly bound: number }
  readonly ok: boolean
}

const string = { type: "string" } as const
const { values: flags } = parseArgs({ options: { json: string, kernels: string, steps: string } })
const steps = Number(flags.steps ?? 8)
if (!Number.isSafeInteger(steps) || steps < 3) throw new Error(`--steps is ${flags.steps}; it must be 3 or more`)
const kernels = flags.kernels as CpuBackend["info"]["kernels"] | undefined
// One thread: waiting for others would count as processor time.
const backend = await cpu({ threads: 1, ...(kernels ? { kernels } : {}) })
console.log(`kernels ${backend.info.kernels}, one thread, LoRA on all linear layers of ${hidden} and ${inner} features`)

const growths: Growth[] = []
for (const axis of axes) growths.push(await grow(axis))
console.table(
  growths.map(({ axis, values, measured, time, memory, ok }) => ({
    doubled: `${axis} ${values[0]}…${values.at(-1)}`,
    "processor, ms": measured.map(({ milliseconds }) => milliseconds).join(" "),
    time: time.exponent,
    "at most": time.bound,
    "memory, MB": measured.map(({ megabytes }) => megabytes).join(" "),
    memory: memory.exponent,
    "at most ": memory.bound,
    "": ok ? "" : "TOO FAST",
  })),
)
console.log(
  `Expected: at most linear in everything, but attention's square in tokens. An exponent may exceed its bound by ${margin}.`,
)
if (flags.json !== undefined)
  writeResult(flags.json, { kernels: backend.info.kernels, library: backend.info.library, steps, margin, growths })
if (!growths.every(({ ok }) => ok)) process.exitCode = 1

async function grow({ name, values, others }: Axis): Promise<Growth> {
  const sizes = values.map((value): Sizes => ({ ...usual, ...others, [name]: value }))
  const measured: Measured[] = []
  for (const one of sizes) measured.push(await measure(one))
  const of = (ys: readonly number[]): number => round(exponent(values, ys), 2)
  const time = {
    exponent: of(measured.map(({ milliseconds }) => milliseconds)),
    bound: name === "tokens" ? of(sizes.map(operations)) : 1,
  }
  const memory = { exponent: of(measured.map(({ megabytes }) => megabytes)), bound: 1 }
  const ok = [time, memory].every((fitted) => fitted.exponent <= fitted.bound + margin)
  return { axis: name, values, measured, time, memory, ok }
}

async function measure({ rows, tokens, layers, rank, vocabulary }: Sizes): Promise<Measured> {
  const counted = counting(backend)
  const base = initCausalLM(
    {
      ...{ model_type: "llama", hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers },
      ...{
        num_attention_heads: heads,
        num_key_value_heads: 1,
        vocab_size: vocabulary,
        max_position_embeddings: tokens,
      },
      ...{ rms_norm_eps: 1e-5, rope_theta: 10_000, hidden_act: "silu", tie_word_embeddings: true },
    },
    { backend: counted.backend },
  )
  const model = adapt(base, lora({ r: rank, alpha: 16 }), { targetModules: "all-linear" })
  const data = Array.from({ length: rows }, (_, row) => {
    const ids = Array.from({ length: tokens }, (_, t) => ((row * tokens + t) * 7919) % vocabulary)
    return { input_ids: ids, labels: ids }
  })
  const spans: number[] = []
  let from = process.cpuUsage()
  await train(model, jsonl(data, "made-up rows"), {
    ...{ maxSteps: steps, batchSize: rows, maxLength: tokens, learningRate: 1e-4, shuffle: false },
    onStep() {
      const { user, system } = process.cpuUsage(from)
      spans.push((user + system) / 1000)
      from = process.cpuUsage()
    },
  })
  const { peak } = counted
  const megabytes = round(peak() / 2 ** 20, 2)
  counted.release()
  // The first two compile.
  return { milliseconds: round(Math.min(...spans.slice(2)), 1), megabytes }
}

/** Multiplications of a step, from which the exponent follows that a sequence's length should have. */
function operations({ rows, tokens, layers, rank, vocabulary }: Sizes): number {
  const keys = hidden / heads
  const widths = [
    ...[hidden + hidden, hidden + keys, hidden + keys, hidden + hidden],
    ...[hidden + inner, hidden + inner, inner + hidden],
  ]
  const weights = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner
  const adapters = rank * widths.reduce((a, b) => a + b, 0)
  // Forward and the gradient of the input; adapters have one more; attention two products forward and five backward.
  const perToken = layers * (2 * weights + 3 * adapters + 7 * tokens * hidden) + 2 * hidden * vocabulary
  return rows * tokens * perToken
}

/** The backend, noting what its buffers hold. `release` gives back what is left. */
function counting(inner: CpuBackend): { backend: Backend; peak(): number; release(): void } {
  const buffers = new Set<DeviceBuffer>()
  let [live, most] = [0, 0]
  const bytesOf = ({ dtype, length }: DeviceBuffer): number => length * bytesPerElement[dtype]
  const note = <T>(made: T): T => {
    for (const buffer of [made].flat() as (DeviceBuffer | undefined)[]) {
      if (buffer === undefined || buffers.has(buffer)) continue
      buffers.add(buffer)
      live += bytesOf(buffer)
    }
    most = Math.max(most, live)
    return made
  }
  const kernels = Object.fromEntries(
    Object.entries(inner.kernels).map(([name, kernel]) => [
      name,
      (...args: never[]) => note((kernel as (...args: never[]) => unknown)(...args)),
    ]),
  ) as unknown as Backend["kernels"]
  const free = (buffer: DeviceBuffer): void => {
    if (buffers.delete(buffer)) live -= bytesOf(buffer)
    inner.free(buffer)
  }
  return {
    backend: { ...inner, kernels, free, upload: (data, dtype) => note(inner.upload(data, dtype)) },
    peak: () => most,
    release: () => [...buffers].forEach(free),
  }
}

/** Slope of the line through the logarithms. */
function exponent(xs: readonly number[], ys: readonly number[]): number {
  const logarithms = (values: readonly number[]): number[] => values.map((value) => Math.log(value))
  const centred = (values: readonly number[]): number[] => {
    const mean = values.reduce((a, b) => a + b, 0) / values.length
    return values.map((value) => value - mean)
  }
  const [x, y] = [centred(logarithms(xs)), centred(logarithms(ys))]
  const products = (other: readonly number[]): number =>
    x.reduce((sum, value, i) => sum + value * (other[i] as number), 0)
  return products(y) / products(x)
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}
