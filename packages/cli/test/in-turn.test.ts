/** Runs that take turns: strictly one after the other, whoever ends first, and the first error ends all. */
import { expect, it } from "vitest"
import { inTurn } from "../src/in-turn.ts"

it("every run does one step at a time, and the others go on when one is done", async () => {
  const order: string[] = []
  const runs = [
    { name: "a", steps: 2 },
    { name: "b", steps: 4 },
    { name: "c", steps: 3 },
  ]
  await inTurn(runs, async ({ name, steps }, next) => {
    for (let step = 1; step <= steps; step++) {
      // Not done at once, as a step of training is not.
      await new Promise((resolve) => setTimeout(resolve, name === "a" ? 5 : 0))
      order.push(`${name}${step}`)
      await next()
    }
  })
  expect(order).toEqual(["a1", "b1", "c1", "a2", "b2", "c2", "b3", "c3", "b4"])
})

it("rejects with the first error", async () => {
  const failing = inTurn(["a", "b"], async (name, next) => {
    await next()
    if (name === "b") throw new Error("no step")
    await next()
  })
  await expect(failing).rejects.toThrow("no step")
})

it("one run has every turn", async () => {
  let steps = 0
  await inTurn([0], async (_, next) => {
    while (steps < 3) {
      steps++
      await next()
    }
  })
  expect(steps).toBe(3)
})
