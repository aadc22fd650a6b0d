/** What a step asks of its device: counted where the backend counts it, and told by the bench. */
import { cpu } from "@peftjs/backend-cpu/node"
import type { CudaBackend } from "@peftjs/backend-cuda/node"
import { expect, it } from "vitest"
import { between, countsOf } from "../src/step-counts.ts"

it("the difference of two counts, and the handles held at the second", () => {
  const at = (steps: number): CudaBackend =>
    ({
      stats: () => ({
        ops: 100 * steps,
        bytesUp: 8 * steps,
        bytesDown: 4 * steps,
        buffers: 9,
        constants: 3,
        handles: 30,
      }),
    }) as CudaBackend
  const [before, after] = [countsOf(at(2)), countsOf(at(5))]
  expect(before && after && between(before, after)).toEqual({ ops: 300, bytes_up: 24, bytes_down: 12, handles: 30 })
})

it("a backend that counts other things, or nothing, is left out", async () => {
  expect(countsOf(await cpu({ kernels: "reference" }))).toBeUndefined()
  const dispatches = { stats: () => ({ dispatches: 5, submissions: 1 }) } as unknown as Parameters<typeof countsOf>[0]
  expect(countsOf(dispatches)).toBeUndefined()
})
