/** The learning rate where none is given: the method's, where it has one. */
import { expect, it } from "vitest"
import { settle } from "../src/options.ts"
import { sgd } from "../src/sgd.ts"

it.each([
  ["neither says", {}, undefined, 2e-4],
  ["the method says", {}, 3e-4, 3e-4],
  ["the user says", { learningRate: 1e-3 }, 3e-4, 1e-3],
  ["an optimizer is given", { optimizer: sgd({ learningRate: 0.1 }) }, 3e-4, 0.1],
])("%s", (_, options, ofMethod, expected) => {
  expect(settle(options, ofMethod).optimizer.learningRate).toBe(expected)
})
