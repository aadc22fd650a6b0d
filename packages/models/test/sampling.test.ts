/** Sampling: scores as transformers' processors make them, draws that follow the probabilities and the seed alone. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import { describe, expect, test } from "vitest"
import { generate, processLogits, type SampleOptions, sample } from "../src/index.ts"
import { loadCausalLM } from "../src/node.ts"
import { folder } from "./fixtures.ts"

type Case = { row: string; options: Record<string, number>; scores: (number | null)[] }
const { history, rows, cases, prompt, penalised } = JSON.parse(
  readFileSync(new URL("fixtures/sampling.json", import.meta.url), "utf8"),
) as {
  history: number[]
  rows: Record<string, number[]>
  cases: Case[]
  prompt: number[]
  penalised: { penalty: number; ids: number[] }[]
}
const names: Readonly<Record<string, string>> = {
  top_k: "topK",
  top_p: "topP",
  repetition_penalty: "repetitionPenalty",
}

test.each(cases)("scores of $row, $options", ({ row, options, scores }) => {
  const ours = Object.fromEntries(Object.entries(options).map(([key, value]) => [names[key] ?? key, value]))
  const logits = Float32Array.from(rows[row] as number[])
  const before = logits.slice()
  const made = processLogits(logits, history, ours)
  const kept = (all: readonly (number | null)[]): number[] =>
    all.filter((score) => score !== null && score !== Number.NEGATIVE_INFINITY) as number[]
  // PyTorch's sort is not stable: which of several equals at top-p's border go is nobody's promise, how many is.
  const order = row === "spread" ? (all: number[]) => all : (all: number[]) => all.sort((a, b) => a - b)
  const [left, theirs] = [order(kept([...made])), order(kept(scores))]
  expect(left).toHaveLength(theirs.length)
  expect(Math.max(...theirs.map((score, i) => Math.abs((left[i] as number) - score)))).toBeLessThan(2e-6)
  if (row === "spread") {
    expect([...made].map((score) => score === Number.NEGATIVE_INFINITY)).toEqual(scores.map((score) => score === null))
  }
  expect(logits).toEqual(before)
})

describe("draws", () => {
  const logits = Float32Array.from([0.5, -1, 2, Number.NEGATIVE_INFINITY, 1])
  const count = (options: SampleOptions, n: number): number[] => {
    const pick = sample(options)
    const counts = [0, 0, 0, 0, 0]
    // A row's history only has to grow.
    const ids: number[] = []
    for (; ids.length < n; ids.push(3)) {
      const id = pick(logits, 0, ids)
      counts[id] = (counts[id] as number) + 1
    }
    return counts
  }

  test("follow the probabilities", () => {
    const n = 40_000
    for (const temperature of [1, 0.5, 3]) {
      const weights = [...logits].map((x) => Math.exp(x / temperature))
      const total = weights.reduce((a, b) => a + b)
      const counts = count({ temperature, seed: 5 }, n)
      // Four standard deviations.
      counts.forEach((c, id) => {
        const p = (weights[id] as number) / total
        expect(Math.abs(c / n - p)).toBeLessThanOrEqual(4 * Math.sqrt((p * (1 - p)) / n))
      })
      expect(counts[3]).toBe(0)
    }
  })

  test("only among those left", () => {
    expect(count({ topK: 2, temperature: 9 }, 200).map((c) => c > 0)).toEqual([false, false, true, false, true])
    expect(count({ topP: 0.1 }, 50)[2]).toBe(50)
    expect(count({ temperature: 0 }, 50)[2]).toBe(50)
    expect(sample({ temperature: 0, repetitionPenalty: 9 })(logits, 0, [2])).toBe(4)
  })

  test("depend on seed, row and place", () => {
    const pick = (seed: number, row: number): number[] =>
      Array.from({ length: 30 }, (_, i) => sample({ seed })(logits, row, Array(i).fill(1)))
    expect(pick(1, 0)).toEqual(pick(1, 0))
    expect(pick(1, 0)).not.toEqual(pick(2, 0))
    expect(pick(1, 0)).not.toEqual(pick(1, 1))
    expect(new Set(pick(1, 0)).size).toBeGreaterThan(1)
  })

  test("refuse broken logits", () => {
    const broken = Float32Array.from([1, Number.NaN, 2])
    for (const options of [{}, { topP: 0.5 }, { topK: 2 }]) {
      expect(() => sample(options)(broken, 0, [])).toThrow(/E_NOT_FINITE/)
    }
  })
})

test.each([
  [{ temperature: -1 }, /temperature is -1; it must be 0 or more/],
  [{ topK: 0 }, /topK is 0/],
  [{ topK: 1.5 }, /topK is 1.5/],
  [{ topP: 0 }, /topP is 0/],
  [{ topP: 1.1 }, /topP/],
  [{ repetitionPenalty: 0 }, /repetitionPenalty/],
  [{ seed: -1 }, /seed/],
  [{ temperature: Number.NaN }, /temperature.*E_OPTION/],
])("refuses %j", (options, message) => expect(() => sample(options)).toThrow(message))

test("in generation: the seed decides, the prompt counts as said", async () => {
  const model = await loadCausalLM(folder("models/llama"), { backend: await cpu({ kernels: "reference" }) })
  const said = (options: SampleOptions): Promise<number[][]> =>
    generate(
      model,
      [
        [1, 17, 42],
        [1, 64],
      ],
      { maxNewTokens: 8, pick: sample(options) },
    )
  expect(await said({ seed: 1 })).toEqual(await said({ seed: 1 }))
  expect(await said({ seed: 1 })).not.toEqual(await said({ seed: 2 }))
  const [unique] = await generate(model, [[1, 17, 42, 99, 5]], {
    maxNewTokens: 16,
    pick: sample({ temperature: 0, repetitionPenalty: 1e6 }),
  })
  // Greedy repeats 52 from the ninth on.
  expect(new Set([1, 17, 42, 99, 5, ...(unique as number[])]).size).toBe(5 + 16)
})

test.each(penalised)("greedy with penalty $penalty gives the ids of transformers", async ({ penalty, ids }) => {
  const model = await loadCausalLM(folder("models/llama"), { backend: await cpu({ kernels: "reference" }) })
  const pick = sample({ temperature: 0, repetitionPenalty: penalty })
  expect(await generate(model, [prompt], { maxNewTokens: 16, eosTokenId: null, pick })).toEqual([ids])
})
