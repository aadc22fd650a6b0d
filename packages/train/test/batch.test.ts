import { describe, expect, it } from "vitest"
import { collate, epochOrder, groupRows, groupsPerEpoch } from "../src/index.ts"

describe("epochOrder", () => {
  it("is every row once, another order each epoch and seed, the same each time", () => {
    const order = (epoch: number, seed = 0): number[] => epochOrder(50, epoch, { shuffle: true, seed })
    expect([...order(0)].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i))
    expect(order(0)).toEqual(order(0))
    expect(
      new Set([order(0), order(1), order(0, 1), epochOrder(50, 0, { shuffle: false, seed: 0 })].map(String)).size,
    ).toBe(4)
  })

  it("puts every row at every place about equally often", () => {
    const counts = Array.from({ length: 5 }, () => new Array<number>(5).fill(0))
    for (let epoch = 0; epoch < 5000; epoch++)
      for (const [place, row] of epochOrder(5, epoch, { shuffle: true, seed: 7 }).entries())
        (counts[row] as number[])[place] = ((counts[row] as number[])[place] as number) + 1
    // 5000 draws of probability 1/5: 5 standard deviations are 141.
    for (const count of counts.flat()) expect(Math.abs(count - 1000)).toBeLessThan(141)
  })
})

describe("groups", () => {
  it("drop no row, and the last group of an epoch is smaller", () => {
    const how = { batchSize: 2, gradientAccumulationSteps: 3 }
    const order = Array.from({ length: 9 }, (_, i) => i)
    expect(groupsPerEpoch(9, how)).toBe(2)
    expect(groupRows(order, 0, how)).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
    ])
    expect(groupRows(order, 1, how)).toEqual([[6, 7], [8]])
  })
})

describe("collate", () => {
  it("counts labels as the model does: not at the first position, not -100", () => {
    const row = (ids: number[], labels: number[], response: boolean[]) => ({ ids, labels, response })
    const { labels, mask, weights, response, weight, inputTokens } = collate(
      [
        row([1, 2, 3], [1, -100, 3], [false, false, true]),
        { ...row([4, 5], [4, 5], [false, false]), weights: [0.5, 0.5] },
      ],
      9,
    )
    expect([...labels]).toEqual([1, -100, 3, 4, 5, -100])
    expect([...mask]).toEqual([1, 1, 1, 1, 1, 0])
    expect([[...weights], [...response], weight, inputTokens]).toEqual([[1, 0.5], [1, 0], 1.5, 5])
  })
})
