import { describe, expect, it } from "vitest"
import { type ScheduleName, type ScheduleOptions, schedule, scheduleNames } from "../src/index.ts"
import { largestDifference, readJson } from "./helpers.ts"

interface Case {
  readonly name: ScheduleName
  readonly warmup_steps?: number
  readonly training_steps?: number
  readonly lr?: number
  readonly specific?: Readonly<Record<string, number | string>>
  readonly multipliers: readonly number[]
}

const { schedules, tolerance } = readJson("schedules/schedules.json") as {
  schedules: Record<string, Case>
  tolerance: { abs: number }
}

// ReLoRA's names are those of its own code.
const renamed: Record<string, string> = {
  total: "totalSteps",
  first_warmup: "warmupSteps",
  restart_warmup: "restartWarmupSteps",
  min_ratio: "minLrRatio",
}
const camel = (name: string): string => renamed[name] ?? name.replace(/_(.)/g, (_, c: string) => c.toUpperCase())

describe("schedules", () => {
  it.each(Object.entries(schedules))("%s gives transformers' multipliers", (_, recorded) => {
    const specific = Object.fromEntries(Object.entries(recorded.specific ?? {}).map(([k, v]) => [camel(k), v]))
    const options = {
      warmupSteps: recorded.warmup_steps ?? 0,
      totalSteps: recorded.training_steps ?? 100,
      learningRate: recorded.lr ?? 1,
      ...specific,
    } as ScheduleOptions
    const multiplier = schedule(recorded.name, options)
    const ours = recorded.multipliers.map((_, step) => multiplier(step))
    expect(largestDifference(ours, recorded.multipliers)).toBeLessThan(tolerance.abs)
  })

  it("has every name of transformers that depends on the step alone", () => {
    expect(scheduleNames).toHaveLength(11)
  })

  // Computed by transformers 5.23.0: warm-up 4, 12 steps, lowest rate 0.1.
  const decay = [
    0.9657457896300791, 0.8681980515339464, 0.7222075445642904, 0.55, 0.3777924554357096, 0.23180194846605365,
    0.13425421036992097, 0.1, 0.1342542103699209, 0.23180194846605356,
  ]
  it.each([
    [{}, [0.25, 0.5, 0.75, 1, ...decay]],
    [{ warmupLrRate: 0.2 }, [0.2, 0.4666666666666667, 0.7333333333333334, 1, ...decay]],
  ])("cosine_warmup_with_min_lr %o", (specific, expected) => {
    const multiplier = schedule("cosine_warmup_with_min_lr", {
      warmupSteps: 4,
      totalSteps: 12,
      learningRate: 1,
      minLrRate: 0.1,
      ...specific,
    })
    expect(
      largestDifference(
        expected.map((_, step) => multiplier(step)),
        expected,
      ),
    ).toBeLessThan(1e-12)
  })

  it.each(["reduce_lr_on_plateau", "greedy", "cosinus", "toString"])("refuses %s, naming the others", (name) => {
    const make = (): unknown => schedule(name as ScheduleName, { warmupSteps: 0, totalSteps: 1, learningRate: 1 })
    expect(make).toThrow(/cosine_with_restarts.*\(E_SCHEDULE\)/)
  })

  it.each(["cosine_with_min_lr", "warmup_stable_decay", "relora_jagged_cosine"] as const)(
    "%s says which option is missing",
    (name) => {
      expect(() => schedule(name, { warmupSteps: 0, totalSteps: 1, learningRate: 1 })).toThrow(/min|missing/)
    },
  )
})
