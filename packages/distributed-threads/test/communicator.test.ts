/** The communicator among several askers of one thread: nothing of it blocks, so they need no threads of their own. */
import { isPeftError } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { loseReplica, sharedJob, threadCommunicator } from "../src/index.ts"

const all = (size: number): ReturnType<typeof threadCommunicator>[] => {
  const job = sharedJob(size)
  return Array.from({ length: size }, (_, rank) => threadCommunicator(job, rank))
}

/** Bit for bit; a matcher would take seconds for so many. */
const same = (a: Float32Array, b: Float32Array): boolean => Buffer.from(a.buffer).equals(Buffer.from(b.buffer))

describe.each([1, 2, 3, 5])("%i replicas", (size) => {
  it("add up buffers of any length in f32 and f64, to the same bits", async () => {
    const lengths = [1, 2, 7, 1000, 131_072, 300_001]
    const given = all(size).map((communicator) => ({
      communicator,
      floats: lengths.map((n) => Float32Array.from({ length: n }, (_, i) => Math.sin(i + communicator.rank))),
      doubles: [Float64Array.of(0.1 * (communicator.rank + 1))],
    }))
    const before = given.map(({ floats }) => floats.map((x) => x.slice()))
    await Promise.all(given.map(({ communicator, floats, doubles }) => communicator.allReduce([...floats, ...doubles])))
    for (const [b, n] of lengths.entries()) {
      const sums = Float32Array.from({ length: n }, (_, i) =>
        before.reduce((sum, own) => sum + (own[b]?.[i] ?? Number.NaN), 0),
      )
      for (const { floats } of given) expect(same(floats[b] as Float32Array, sums)).toBe(true)
    }
    const expected = Array.from({ length: size }, (_, r) => 0.1 * (r + 1)).reduce((a, b) => a + b, 0)
    for (const { doubles } of given) expect(doubles[0]?.[0]).toBe(expected)
  })

  it("get what rank 0 has", async () => {
    const given = all(size).map((communicator) => ({
      communicator,
      values: Float32Array.from({ length: 200_000 }, (_, i) => i * (communicator.rank + 1)),
    }))
    await Promise.all(given.map(({ communicator, values }) => communicator.broadcast([values])))
    for (const { values } of given) expect(same(values, given[0]?.values as Float32Array)).toBe(true)
    expect(given[0]?.values[5]).toBe(5)
  })

  it("none passes a barrier before the last has come", async () => {
    const come: number[] = []
    const passed: number[] = []
    await Promise.all(
      all(size).map(async (communicator) => {
        await new Promise((resolve) => setTimeout(resolve, 10 * (size - communicator.rank)))
        come.push(communicator.rank)
        await communicator.barrier()
        expect(come).toHaveLength(size)
        passed.push(communicator.rank)
      }),
    )
    expect(passed).toHaveLength(size)
  })
})

it("a replica that is lost wakes and fails those who wait, and who calls later", async () => {
  const job = sharedJob(3)
  const [first, second] = [0, 1].map((rank) => threadCommunicator(job, rank))
  const waiting = [first?.barrier(), second?.allReduce([Float32Array.of(1)])]
  setTimeout(() => loseReplica(job), 10)
  const ends = await Promise.allSettled(waiting)
  for (const end of ends)
    expect(end.status === "rejected" && isPeftError(end.reason) && end.reason.code).toBe("E_REPLICA_LOST")
  await expect(first?.barrier()).rejects.toThrow("E_REPLICA_LOST")
})

it("refuses sizes and ranks that make no sense", () => {
  expect(() => sharedJob(0)).toThrow("E_OPTION")
  expect(() => sharedJob(1.5)).toThrow("E_OPTION")
  expect(() => threadCommunicator(sharedJob(2), 2)).toThrow("E_OPTION")
  expect(() => threadCommunicator(sharedJob(2), -1)).toThrow("E_OPTION")
})
