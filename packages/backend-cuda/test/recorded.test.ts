/** The kernels on recorded answers of TensorFlow, so that they run where there is none: the right ops, the right results, nothing left. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { createBackend } from "../src/backend.ts"
import { recordedCalls } from "./recorded-calls.ts"
import { playing, recording, type Trace } from "./recorded-runtime.ts"

const trace = JSON.parse(readFileSync(new URL("fixtures/trace.json", import.meta.url), "utf8")) as Trace

describe("on recorded answers", () => {
  it("every kernel gives what it must, and no handle is left but constants", async () => {
    const { runtime, rest } = playing(trace)
    const backend = createBackend(runtime)
    for (const { name, got, expected } of await recordedCalls(backend)) {
      expect(got.length, name).toBe(expected.length)
      for (const [i, value] of expected.entries()) expect(got[i], `${name} [${i}]`).toBeCloseTo(value, 5)
    }
    expect(rest()).toBe(0)
    const { buffers, constants, handles } = backend.stats()
    expect([buffers, handles]).toEqual([0, constants])
  })

  it("another call than the recorded one fails, and says which", async () => {
    const { runtime } = playing(trace)
    expect(() => runtime.createTensor("f32", [6], new Float32Array(6))).toThrow(/call 0 of the recording is .*create/)
    expect(() => runtime.executeOp("Neg", {}, [1], 1)).toThrow(/"op":"Neg".*run record-trace\.ts/)
    await expect(
      recordedCalls(createBackend(playing({ ...trace, calls: trace.calls.slice(0, 20) }).runtime)),
    ).rejects.toThrow(/call 20 of the recording is \{\}/)
  })

  it("a recording of a recording is the same", async () => {
    const { runtime, trace: again } = recording(playing(trace).runtime)
    await recordedCalls(createBackend(runtime))
    expect(again()).toEqual(trace)
  })
})
