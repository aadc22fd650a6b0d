/** Kernels that work on rows, in the sizes of workgroup that a software driver never gets, with subgroups and without; and long reductions. */
import type { DeviceBuffer } from "@peftjs/core"
import { uniforms } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import type { Gpu, GpuBuffer } from "../src/gpu.ts"
import { createLayerNormBackward } from "../src/layer-norm.ts"
import { createReduce } from "../src/reduce.ts"
import { createLogSumExp, createSoftmax } from "../src/softmax.ts"
import { absent, openGpu } from "./gpu.ts"

const numbers = (stream: number, n: number): Float32Array => uniforms([stream, 7], n, -2, 2)

/** The same device as one that is not a program on the CPU. */
async function hardware(subgroups: boolean): Promise<Gpu | undefined> {
  const gpu = await openGpu()
  if (subgroups && !gpu.features.subgroups) return undefined
  const features = { ...gpu.features, software: false, subgroups }
  return { ...gpu, features, program: (key, build) => gpu.program(`${key} subgroups ${subgroups}`, build) }
}

interface Dims {
  readonly rows: number
  readonly n: number
  readonly eps: number
}
type Kernel = (gpu: Gpu, x: DeviceBuffer, w: DeviceBuffer, dy: DeviceBuffer, dims: Dims) => DeviceBuffer

/** One of each kind of reducer. */
const kernels: Readonly<Record<string, Kernel>> = {
  max: (gpu, x, _w, _dy, { rows, n }) => createReduce(gpu)("max", x, { outer: rows, n, inner: 1 }),
  softmax: (gpu, x, _w, _dy, { rows, n }) => createSoftmax(gpu)(x, rows, n),
  layerNormBackward: (gpu, x, w, dy, dims) => createLayerNormBackward(gpu)(x, w, dy, dims),
}

describe.skipIf(absent !== undefined)("rows", () => {
  for (const subgroups of [true, false]) {
    it(`a workgroup per row finds what a few lanes find, ${subgroups ? "with" : "without"} subgroups`, async () => {
      const gpu = await openGpu()
      const other = await hardware(subgroups)
      if (!other) return
      for (const n of [63, 1500]) {
        const dims = { rows: 3, n, eps: 1e-5 }
        const [x, w, dy] = [3 * n, n, 3 * n].map((size, i) => gpu.upload(numbers(i, size), "f32")) as [
          GpuBuffer,
          GpuBuffer,
          GpuBuffer,
        ]
        for (const [name, kernel] of Object.entries(kernels)) {
          // A software driver takes seconds for each kernel of 256 lanes.
          if (n > 1024 && name !== "layerNormBackward") continue
          const [few, many] = [kernel(gpu, x, w, dy, dims), kernel(other, x, w, dy, dims)]
          const [expected, found] = [await gpu.read(few), await gpu.read(many)]
          expect(found.length).toBe(expected.length)
          const scale = 1 + Math.max(...expected.map(Math.abs))
          for (const [i, value] of found.entries())
            expect(Math.abs(value - (expected[i] as number)), `${name} ${n} [${i}]`).toBeLessThan(2e-6 * scale)
          for (const buffer of [few, many]) gpu.free(buffer)
        }
        for (const buffer of [x, w, dy]) gpu.free(buffer)
      }
    })
  }

  it("long axes are reduced in pieces, which nobody sees", async () => {
    const gpu = await openGpu()
    const reduce = createReduce(gpu)
    const before = gpu.live()
    for (const [outer, n, inner] of [
      [1, 70001, 1],
      [3, 5000, 1],
      [1, 1000, 9],
      [2, 200, 3],
    ] as const) {
      const data = numbers(n, outer * n * inner)
      const x = gpu.upload(data, "f32")
      for (const op of ["sum", "max"] as const) {
        const [first, second] = [reduce(op, x, { outer, n, inner }), reduce(op, x, { outer, n, inner })]
        const found = await gpu.read(first)
        expect(await gpu.read(second)).toEqual(found)
        for (let o = 0; o < outer; o++)
          for (let i = 0; i < inner; i++) {
            const column = Array.from({ length: n }, (_, j) => data[(o * n + j) * inner + i] as number)
            const whole = op === "sum" ? column.reduce((a, b) => a + b, 0) : column.reduce((a, b) => Math.max(a, b))
            expect(Math.abs((found[o * inner + i] as number) - whole)).toBeLessThanOrEqual(op === "sum" ? 1e-6 * n : 0)
          }
        for (const buffer of [first, second]) gpu.free(buffer)
      }
      gpu.free(x)
    }
    expect(gpu.live()).toBe(before)
  })

  it("a row of nothing but -Infinity has the log-sum-exp -Infinity", async () => {
    const gpu = await openGpu()
    const low = Number.NEGATIVE_INFINITY
    const x = gpu.upload(Float32Array.of(low, low, low, 1), "f32")
    const y = createLogSumExp(gpu)(x, 2, 2)
    expect([...(await gpu.read(y))]).toEqual([low, 1])
    const empty = createLogSumExp(gpu)(gpu.alloc("f32", 0), 2, 0)
    expect([...(await gpu.read(empty))]).toEqual([low, low])
  })
})
