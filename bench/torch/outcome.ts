/** From what both measured to ratios, and which of them are good enough. Must not know how anything was measured. */
import type { Case, Measured } from "./contenders.ts"

/** All rounds of one case, and what they come to. Ratios above 1: we are faster, or take more memory. */
export interface Outcome {
  readonly case: Case
  readonly ours: readonly Measured[]
  readonly theirs: readonly Measured[]
  readonly figures?: Figures
}

export interface Figures {
  /** How many times as long PyTorch takes: medians over rounds, whose two parts followed each other. */
  readonly speed: number
  /** The same of processor time, which other programs on the machine change least. */
  readonly processor: number
  /** Our peak of resident memory to PyTorch's. */
  readonly memory: number
  /** Our rate of 1024³ products to PyTorch's. */
  readonly gemm: number
  /** Largest difference of losses: of the first steps, and of all. */
  readonly first_loss: number
  readonly losses: number
  readonly efficiency: number
  /** What quantised layers take. */
  readonly bits?: number
}

export interface Target {
  readonly case: string
  readonly what: string
  readonly value: number
  readonly atLeast?: number
  readonly atMost?: number
  /** Where it is not yet required. */
  readonly goal?: boolean
  readonly met: boolean
}

export function figuresOf(ours: readonly Measured[], theirs: readonly Measured[]): Figures {
  const pairs = ours.map((own, i) => [own, theirs[i] as Measured] as const)
  const ratio = (of: (own: Measured, other: Measured) => number): number => median(pairs.map(([a, b]) => of(a, b)))
  const apart = pairs.flatMap(([a, b]) => a.losses.map((loss, i) => Math.abs(loss - (b.losses[i] ?? Number.NaN))))
  const first = pairs.map(([a, b]) => Math.abs((a.losses[0] as number) - (b.losses[0] as number)))
  const bits = ours[0]?.packed?.bits_per_value
  return {
    speed: ratio((a, b) => b.step_s / a.step_s),
    processor: ratio((a, b) => b.cpu_step_s / a.cpu_step_s),
    memory: ratio((a, b) => a.peak_rss_mb / b.peak_rss_mb),
    gemm: ratio((a, b) => a.gemm_gflops / b.gemm_gflops),
    first_loss: Math.max(...first),
    losses: Math.max(...apart),
    efficiency: median(ours.map((m) => m.efficiency ?? Number.NaN)),
    ...(bits === undefined ? {} : { bits }),
  }
}

/** What a case is measured against. */
export function targetsOf({ case: { name, method, checkpointing }, figures }: Outcome): Target[] {
  if (!figures) return []
  const { speed, memory, gemm, efficiency, bits } = figures
  const most = (what: string, value: number, atMost: number, goal = false): Target => ({
    ...{ case: name, what, value, atMost, goal, met: value <= atMost },
  })
  const least = (what: string, value: number, atLeast: number, goal = false): Target => ({
    ...{ case: name, what, value, atLeast, goal, met: value >= atLeast },
  })
  const loss = most("first loss, difference", figures.first_loss, 1e-3)
  if (method === "full") return [loss]
  const sizes: [number, number] = method === "qlora" ? [2.5, 0.35] : checkpointing ? [2.5, 0.25] : [2.5, 0.4]
  const goals = [least("speed", speed, sizes[0], true), most("memory", memory, sizes[1], true)]
  if (method === "qlora") {
    const stored = bits === undefined ? [] : [most("bits a parameter", bits, 4.2)]
    return [loss, least("speed", speed, 1.5), most("memory", memory, 0.5), ...stored, ...goals]
  }
  if (checkpointing) return [loss, ...goals]
  const own = least("speed, by what the products allow", speed, 1.3 * Math.min(1, gemm))
  return [loss, own, ...goals, least("efficiency", efficiency, 0.65, true)]
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const [low, high] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted[Math.ceil((sorted.length - 1) / 2)]]
  return ((low as number) + (high as number)) / 2
}
