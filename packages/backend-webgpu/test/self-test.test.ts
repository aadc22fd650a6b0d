import type { Backend } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { selfTest } from "../src/self-test.ts"
import { makeWebgpu } from "./device.ts"
import { absent } from "./runtime-kit.ts"

const suite = absent === undefined ? describe : describe.skip

suite(`self-test${absent ? `: ${absent}` : ""}`, () => {
  it("passes on the device and leaves nothing behind", async () => {
    const backend = await makeWebgpu()
    const before = backend.live()
    await selfTest(backend)
    expect(backend.live()).toBe(before)
  })

  it("fails on a device that computes wrongly", async () => {
    const backend = await makeWebgpu()
    const { kernels } = backend
    const wrong: Backend = {
      ...backend,
      kernels: { ...kernels, matmul: (a, b, dims) => kernels.matmul(b, a, { ...dims, m: dims.n, n: dims.m }) },
    }
    await expect(selfTest(wrong)).rejects.toThrow(/matmul gave .* where .* is right.*E_SELF_TEST/)
  })
})
