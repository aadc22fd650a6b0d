/** Sizes, options, what is refused and how it says so, the cycle of restarts, and what stands in the configuration. */
import { cpu } from "@peftjs/backend-cpu"
import { adapt, adapterOf, configOf, engineOf, isPeftError, type Site, trainables } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { loadCausalLM } from "@peftjs/models/node"
import { describe, expect, it } from "vitest"
import { defaultLearningRate, type MoraOptions, matrixSize, mora, upstreamLayout } from "../src/index.ts"
import { commonFixture } from "./helpers.ts"

const llama = await loadCausalLM(commonFixture("models/llama"), { backend: await cpu() })
const place = (width: number, out: number): Site => ({ path: "lm_head", in: width, out }) as Site
const failure = (body: () => unknown): string => {
  try {
    body()
  } catch (error) {
    if (isPeftError(error)) return `${error.code} ${error.message}`
    throw error
  }
  return "nothing"
}

// in, out, r, then R of types 1 to 4 and of rotation. Rounded half up, not down.
it.each([
  [4096, 4096, 8, 256, 256],
  [4096, 11008, 8, 348, 348],
  [4096, 1024, 8, 202, 202],
  [4096, 14336, 8, 384, 384],
  [4096, 4096, 256, 1448, 1448],
  [4096, 11008, 256, 1966, 1966],
  [768, 768, 8, 111, 110],
  [768, 3072, 8, 175, 174],
  [768, 2560, 128, 653, 652],
  [768, 768, 128, 443, 442],
])("the matrix of %i to %i features at r %i has %i rows, rotating %i", (width, out, r, grouped, rotated) => {
  expect(matrixSize(place(width, out), r, false)).toBe(grouped)
  expect(matrixSize(place(width, out), r, true)).toBe(rotated)
})

describe("a matrix larger than the layer is refused", () => {
  it("with what would fit", () => {
    const message = failure(() => matrixSize(place(1024, 151936), 8, false))
    expect(message).toBe(
      "E_RANK [mora] R = 1106 exceeds min(in, out) = 1024 at lm_head; choose r ≤ 6 or exclude lm_head (E_RANK)",
    )
    expect(matrixSize(place(1024, 151936), 6, false)).toBe(958)
  })
  it("where nothing fits", () => {
    expect(failure(() => matrixSize(place(8, 1000), 1, false))).toContain("; exclude lm_head")
    expect(failure(() => matrixSize(place(1, 1), 1, true))).toContain("E_RANK [mora] R = 0 ")
  })
  it("when a model is adapted, which leaves nothing behind", () => {
    const { liveBuffers } = engineOf(llama.backend)
    expect(failure(() => adapt(llama, mora({ r: 64 }), { targetModules: ["q_proj"] }))).toContain("E_RANK")
    expect(engineOf(llama.backend).liveBuffers).toBe(liveBuffers)
  })
})

it.each<[MoraOptions, string]>([
  [{ type: 5 as never }, "E_OPTION [mora] type (mora_type) = 5 must be one of"],
  [{ type: 5 as never }, "has no 5"],
  [{ type: "rotate" as never }, '"rotation" (6)'],
  [{ r: 0 }, "E_RANK"],
  [{ r: 1.5 }, "E_RANK"],
  [{ rankPattern: { q_proj: -1 } }, "E_RANK"],
  [{ dropout: 1 }, "E_OPTION"],
  [{ remoraTypes: 3 as never }, "E_OPTION"],
  [{ alpha: 16 } as never, "E_OPTION"],
])("refused: %j", (options, message) => expect(failure(() => mora(options))).toContain(message))

it("an embedding is refused", () =>
  expect(failure(() => adapt(llama, mora({ r: 2 }), { targetModules: ["embed_tokens"] }))).toContain("E_SITE_KIND"))

it("types go by name and by number", () => {
  const names = ["sharing", "contiguous-interleave", "contiguous-tile", "strided-interleave", "rotation"] as const
  for (const [i, type] of ([1, 2, 3, 4, 6] as const).entries()) {
    expect(mora({ type }).config).toEqual(mora({ type: names[i] as (typeof names)[number] }).config)
    expect(mora({ type }).config.type).toBe(names[i])
  }
})

it("restarts go through the types of the published code, or the paper's two; rotation has no other", () => {
  const cycle = (type: 1 | 2 | 3 | 4, remoraTypes?: 2 | 4): unknown[] => {
    const found: unknown[] = []
    let method = mora({ r: 3, type, dropout: 0.1, ...(remoraTypes ? { remoraTypes } : {}) })
    for (let n = 1; n <= 4; n++) {
      method = method.restart?.(n) ?? method
      expect(method.config).toMatchObject({ r: 3, dropout: 0.1 })
      found.push(upstreamLayout.write(method, []).mora_type)
    }
    return found
  }
  expect(cycle(1)).toEqual([2, 3, 4, 1])
  expect(cycle(3)).toEqual([4, 1, 2, 3])
  expect(cycle(1, 2)).toEqual([2, 1, 2, 1])
  expect(cycle(3, 2)).toEqual([4, 3, 4, 3])
  expect(mora({ type: 6 }).restart).toBeUndefined()
})

it("the learning rate falls from the paper's 3e-4 at r 8 to its 5e-5 at r 256", () => {
  expect(defaultLearningRate(8)).toBeCloseTo(3e-4, 10)
  expect(defaultLearningRate(1)).toBe(defaultLearningRate(8))
  expect(defaultLearningRate(256)).toBeGreaterThan(5e-5)
  expect(defaultLearningRate(256)).toBeLessThan(6e-5)
})

it("ranks go by layer, and parameters are as many as LoRA's within a few per cent on this tiny model", () => {
  const options = { r: 4, rankPattern: { q_proj: 2 } }
  const count = (method: Parameters<typeof adapt>[1]): number =>
    trainables(adapt(llama, method, { targetModules: "all-linear" })).reduce((n, t) => n + t.tensor.size, 0)
  expect(count(mora({ ...options, type: 1 })) / count(lora(options))).toBeCloseTo(1, 1)
  const sizes = trainables(adapt(llama, mora({ ...options, type: 1 }), { targetModules: ["q_proj", "o_proj"] }))
  expect(sizes.map((t) => t.tensor.shape[0])).toEqual([16, 23, 16, 23])
})

describe("the configuration", () => {
  const options = { r: 4, type: 2, dropout: 0.1, rankPattern: { q_proj: 2 }, remoraTypes: 2 } as const
  it("of our own has a type of its own", () => {
    const model = adapt(llama, mora(options), { targetModules: ["q_proj"] })
    const config = configOf(model, adapterOf(model))
    expect(config).toMatchObject({
      ...{ peft_type: "MORA", r: 4, mora_type: 2, mora_dropout: 0.1, rank_pattern: { q_proj: 2 }, remora_types: 2 },
      target_modules: ["q_proj"],
    })
    expect(mora.format?.read(config).config).toEqual(mora(options).config)
    expect(mora.format?.read({ ...config, mora_type: "sharing" }).config.type).toBe("sharing")
  })
  it("of the published code is claimed by use_mora alone", () => {
    expect(upstreamLayout.claims?.({ peft_type: "LORA", use_mora: true })).toBe(true)
    expect(upstreamLayout.claims?.({ peft_type: "LORA" })).toBe(false)
    expect(upstreamLayout.read({ use_mora: true }).config).toEqual(mora({ type: 1 }).config)
    const written = upstreamLayout.write(mora(options), [])
    expect(written).toMatchObject({ r: 4, mora_type: 2, lora_dropout: 0.1, rank_pattern: { q_proj: 2 } })
    expect(upstreamLayout.read(written).format).toBe(upstreamLayout)
  })
  it("with a value of the wrong type is refused", () => {
    expect(failure(() => mora.format?.read({ r: "8" }))).toContain("E_CONFIG")
    expect(failure(() => mora.format?.read({ mora_type: 5 }))).toContain("E_OPTION")
  })
})
