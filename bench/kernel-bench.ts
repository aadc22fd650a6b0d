/**
 * Products of matrices timed beside other libraries', and training steps counted by what they ask of the device. Runs in Node and in a page,
 * on whatever it is given. Knows no file and no device: kernels.ts and chromium-page.ts bring those.
 */

import type { DeviceInfo, RuntimeStats } from "@peftjs/backend-webgpu"
import { adapt, type Backend, type Model } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { jsonl, train } from "@peftjs/train"

/** x [m, k] times the transpose of w [n, k], as a linear layer computes it. */
export interface MatmulShape {
  readonly name: string
  readonly m: number
  readonly n: number
  readonly k: number
  /** How our backend holds w; the others know f32 alone. */
  readonly weight: "f32" | "bf16"
}

/** What takes part: a library on a device. */
export interface Contender {
  readonly name: string
  prepare(shape: MatmulShape, x: Float32Array, w: Float32Array): Promise<Prepared>
}

export interface Prepared {
  /** Computes the product so many times and reads the last. */
  run(times: number): Promise<ArrayLike<number>>
  free(): void
}

export interface MatmulRow extends MatmulShape {
  /** Median over the rounds, of one product. */
  readonly milliseconds: Readonly<Record<string, number>>
  readonly gflops: Readonly<Record<string, number>>
  /** How many times as long the others take as the first; above 1 the first is faster. */
  readonly ratio: Readonly<Record<string, number>>
  /** Of the others' results from the first's, relative to the largest element. */
  readonly difference: Readonly<Record<string, number>>
}

const product = (name: string, m: number, n: number, k: number): readonly MatmulShape[] => [
  { name, m, n, k, weight: "f32" },
]

/** Squares, layers of a small Llama on 256 and 128 tokens, LoRA's two products, a token of a generation. */
export const matmulShapes: readonly MatmulShape[] = [
  ...product("square", 256, 256, 256),
  ...product("square", 512, 512, 512),
  ...product("layer", 256, 576, 1536),
  { name: "layer", m: 256, n: 576, k: 1536, weight: "bf16" },
  ...product("LoRA down", 128, 8, 576),
  ...product("LoRA up", 128, 576, 8),
  ...product("one token", 1, 576, 1536),
]

/** Those by which WebAssembly on one thread is compared. */
export const cpuShapes: readonly MatmulShape[] = [
  ...product("square", 512, 512, 512),
  ...product("square", 1024, 1024, 1024),
  ...product("layer", 256, 1536, 576),
]

export interface MatmulOptions {
  /** Measurements of each contender, in turns. */
  readonly rounds?: number
  /** Milliseconds that a measurement lasts at least. */
  readonly least?: number
  readonly onRow?: (row: MatmulRow) => void
}

/** Milliseconds of a product from which fewer rounds do. */
const slow = 2000
const slowRounds = 3

/** Times every shape with every contender, in turns; ratios are relative to the first. */
export async function measureMatmuls(
  contenders: readonly Contender[],
  shapes: readonly MatmulShape[],
  { rounds = 5, least = 40, onRow }: MatmulOptions = {},
): Promise<MatmulRow[]> {
  const rows: MatmulRow[] = []
  for (const shape of shapes) {
    const { m, n, k } = shape
    let slowest = 0
    const [x, w] = [numbers(m * k, 1), numbers(n * k, 2)]
    const entries: { name: string; prepared: Prepared; times: number; first: ArrayLike<number>; spans: number[] }[] = []
    for (const { name, prepare } of contenders) {
      const prepared = await prepare(shape, x, w)
      // The first run compiles, which does not count where a product takes seconds.
      const [compiling, first] = await span(() => prepared.run(1))
      const once = compiling < slow ? (await span(() => prepared.run(1)))[0] : compiling
      entries.push({ name, prepared, first, times: Math.max(1, Math.ceil(least / once)), spans: [] })
      slowest = Math.max(slowest, once)
    }
    for (let round = 0; round < (slowest < slow ? rounds : slowRounds); round++)
      for (const { prepared, times, spans } of entries) spans.push((await span(() => prepared.run(times)))[0] / times)
    for (const { prepared } of entries) prepared.free()
    const reference = entries[0] as (typeof entries)[number]
    const of = (f: (entry: (typeof entries)[number]) => number): Record<string, number> =>
      Object.fromEntries(entries.map((entry) => [entry.name, round4(f(entry))]))
    const { [reference.name]: _, ...ratio } = of((e) => median(e.spans) / median(reference.spans))
    const { [reference.name]: __, ...difference } = of((e) => largestDifference(e.first, reference.first))
    const row = {
      ...shape,
      milliseconds: of((e) => median(e.spans)),
      gflops: of((e) => (2 * m * n * k) / median(e.spans) / 1e6),
      ratio,
      difference,
    }
    rows.push(row)
    onRow?.(row)
  }
  return rows
}

export function ourMatmul(backend: Backend): Contender {
  return {
    name: "peftjs",
    async prepare({ m, n, k, weight }, x, w) {
      const a = backend.upload(x, "f32")
      const b = backend.upload(weight === "f32" ? w : toBf16(w), weight)
      return {
        async run(times) {
          const dims = { batch: 1, m, n, k, transA: false, transB: true }
          const outs = Array.from({ length: times }, () => backend.kernels.matmul(a, b, dims))
          const result = await backend.read(outs.at(-1) as (typeof outs)[number])
          outs.forEach(backend.free)
          return result
        },
        free: () => [a, b].forEach(backend.free),
      }
    },
  }
}

/**
 * @param tf the module @tensorflow/tfjs-core, its backend set
 * @param turned whether it gets the transpose of w beforehand: its WebAssembly has fast products of what is not transposed alone
 */
export function tfjsMatmul(tf: typeof import("@tensorflow/tfjs-core"), turned = false): Contender {
  return {
    name: "tfjs",
    async prepare({ m, n, k, weight }, x, w) {
      const stored = tf.tensor2d(weight === "f32" ? w : fromBf16(toBf16(w)), [n, k])
      const [a, b] = [tf.tensor2d(x, [m, k]), turned ? tf.transpose(stored) : stored]
      return {
        async run(times) {
          const outs = Array.from({ length: times }, () => tf.matMul(a, b, false, !turned))
          const result = await (outs.at(-1) as (typeof outs)[number]).data()
          tf.dispose(outs)
          return result
        },
        free: () => tf.dispose([a, b, stored]),
      }
    },
  }
}

/** @param jax the module @jax-js/jax, its WebGPU backend set */
export function jaxMatmul({ numpy }: typeof import("@jax-js/jax")): Contender {
  return {
    name: "jax-js",
    async prepare({ m, n, k, weight }, x, w) {
      const a = numpy.array(x as Float32Array<ArrayBuffer>).reshape([m, k])
      const b = numpy.array((weight === "f32" ? w : fromBf16(toBf16(w))) as Float32Array<ArrayBuffer>).reshape([n, k])
      return {
        async run(times) {
          const outs = Array.from({ length: times }, () => numpy.matmul(a.ref, b.ref.transpose()))
          // What nobody waits for is never computed there.
          await Promise.all(outs.map((out) => out.blockUntilReady()))
          const result = (outs.pop() as (typeof outs)[number]).data()
          for (const out of outs) out.dispose()
          return (await result) as Float32Array
        },
        free() {
          a.dispose()
          b.dispose()
        },
      }
    },
  }
}

export interface StepRow {
  readonly step: number
  readonly milliseconds: number
  readonly dispatches: number
  readonly submissions: number
  readonly newBuffers: number
  readonly newBytes: number
  readonly poolGrowth: number
  readonly newPipelines: number
  readonly newBindGroups: number
  readonly loss: number
}

export interface StepOptions {
  readonly steps?: number
  readonly batchSize?: number
  readonly tokens?: number
}

/** Trains LoRA (r 8, all linear layers) on made-up rows of one length and says what every step cost. */
export async function measureSteps(
  base: Model,
  stats: () => RuntimeStats,
  { steps = 5, batchSize = 4, tokens = 64 }: StepOptions = {},
): Promise<StepRow[]> {
  const model = adapt(base, lora({ r: 8, alpha: 16 }), { targetModules: "all-linear" })
  const vocabulary = base.sites.get(base.head)?.out as number
  const data = Array.from({ length: batchSize }, (_, b) => {
    const ids = Array.from({ length: tokens }, (_, t) => (((b * tokens + t) * 7919 + 5) % 40_000) % vocabulary)
    return { input_ids: ids, labels: ids }
  })
  const rows: StepRow[] = []
  let [last, at] = [stats(), performance.now()]
  await train(model, jsonl(data, "made-up rows"), {
    ...{ maxSteps: steps, batchSize, maxLength: tokens, learningRate: 1e-3, scheduler: "constant", shuffle: false },
    onStep({ step, loss }) {
      const [now, time] = [stats(), performance.now()]
      const grown = (name: keyof RuntimeStats): number => now[name] - last[name]
      rows.push({
        step,
        milliseconds: round4(time - at),
        dispatches: grown("dispatches"),
        submissions: grown("submissions"),
        newBuffers: grown("buffersMade"),
        newBytes: grown("bytesMade"),
        poolGrowth: grown("poolBytes"),
        newPipelines: grown("pipelines"),
        newBindGroups: grown("bindGroups"),
        loss: round4(loss),
      })
      ;[last, at] = [now, time]
    },
  })
  return rows
}

/** Whether steps after the second made no buffer and no pipeline. */
export function isSteady(rows: readonly StepRow[]): boolean {
  return rows.slice(2).every((row) => row.newBuffers === 0 && row.newPipelines === 0)
}

/** What to call a device; browsers do not describe it. */
export function deviceName({ description, vendor, architecture }: DeviceInfo): string {
  return description || `${vendor} ${architecture}`
}

/** A table of rows for a terminal. */
export function matmulTable(rows: readonly MatmulRow[]): Record<string, string | number>[] {
  return rows.map(({ name, m, n, k, weight, milliseconds, ratio }) => ({
    product: `${name} ${m}x${n}x${k} ${weight}`,
    ...Object.fromEntries(Object.entries(milliseconds).map(([who, ms]) => [`${who} ms`, ms])),
    ...Object.fromEntries(Object.entries(ratio).map(([who, r]) => [`${who} / peftjs`, r])),
  }))
}

function numbers(n: number, seed: number): Float32Array {
  let state = seed
  return Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  })
}

const toBf16 = (x: Float32Array): Uint16Array => Uint16Array.from(new Uint32Array(x.buffer), (word) => word >>> 16)
const fromBf16 = (x: Uint16Array): Float32Array => new Float32Array(Uint32Array.from(x, (h) => h << 16).buffer)

async function span<T>(body: () => Promise<T>): Promise<[milliseconds: number, result: T]> {
  const start = performance.now()
  const result = await body()
  return [performance.now() - start, result]
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return ((sorted[(sorted.length - 1) >> 1] as number) + (sorted[sorted.length >> 1] as number)) / 2
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [most, size] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    most = Math.max(most, Math.abs((a[i] as number) - (b[i] as number)))
    size = Math.max(size, Math.abs(b[i] as number))
  }
  return most / (size || 1)
}

/** Four significant digits. */
const round4 = (x: number): number => Number(x.toPrecision(4))
