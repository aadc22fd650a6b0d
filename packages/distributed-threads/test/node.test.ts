/** Replicas in worker threads. */
import { describe, expect, it } from "vitest"
import { replica, startReplicas } from "../src/node.ts"
import { trainToy } from "./toy.ts"

const worker = new URL("./worker.mjs", import.meta.url)

describe("in worker threads", () => {
  it("training has the losses of one thread", async () => {
    const alone = await trainToy()
    const { communicator, done } = startReplicas(worker, { size: 3, argv: [] })
    const losses = await trainToy(communicator)
    await done
    expect(losses).toHaveLength(4)
    for (const [i, loss] of losses.entries()) expect(Math.abs(loss / (alone[i] as number) - 1)).toBeLessThan(1e-5)
  })

  it.each([
    ["--throw", "broken on purpose"],
    ["--exit", "exit code 3"],
  ])("one that ends badly (%s) ends the run", async (flag, message) => {
    const { communicator, done, stop } = startReplicas(worker, { size: 2, argv: [flag] })
    await expect(trainToy(communicator)).rejects.toThrow("E_REPLICA_LOST")
    await expect(done).rejects.toThrow(message)
    await stop()
  })
})

it("where nobody was started there is no communicator", () => {
  expect(replica()).toBeUndefined()
})
