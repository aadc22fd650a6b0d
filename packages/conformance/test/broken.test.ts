/** The kit tests itself: backends broken on purpose, each refused by the check that is meant for it. A sound one passes them all in fake.test.ts. */
import { type Backend, call, type DeviceBuffer, input, scalar } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { type FakeBackend, fakeBackend, testBackend } from "../src/index.ts"
import { collect } from "./collect.ts"

interface Broken {
  readonly check: string
  readonly message: RegExp
  /** What it does instead of the fake backend. */
  readonly change: (sound: FakeBackend) => Partial<Omit<Backend, "kernels">> & { kernels?: Partial<Backend["kernels"]> }
}

const flat = (buffer: DeviceBuffer): { buffer: DeviceBuffer; shape: number[] } => ({ buffer, shape: [buffer.length] })

const broken: Readonly<Record<string, Broken>> = {
  "a product that ignores transB where the matrix is square": {
    check: "kernel matmul",
    message: /^matmul of 1 \[5, 5\] · \[5, 5\]ᵀ: value/,
    change: ({ kernels }) => ({
      kernels: { matmul: (a, b, dims) => kernels.matmul(a, b, { ...dims, transB: dims.transB && dims.n !== dims.k }) },
    }),
  },
  "a scatterAdd that loses all but the first of neighbours with equal ids": {
    check: "kernel scatterAdd",
    message: /^scatterAdd 9 into \[4, 7\]: value/,
    change: ({ kernels, upload }) => {
      const uploaded = new Map<DeviceBuffer, Int32Array>()
      return {
        upload(data, dtype) {
          const buffer = upload(data, dtype)
          if (dtype === "i32") uploaded.set(buffer, Int32Array.from(data))
          return buffer
        },
        kernels: {
          scatterAdd(x, ids, dims) {
            const known = uploaded.get(ids) as Int32Array
            const once = Float32Array.from(known, (id, i) => (id === known[i - 1] ? 0 : 1))
            const mask = { buffer: upload(once, "f32"), shape: [dims.n, 1] }
            const shape = [dims.n, dims.width]
            const masked = kernels.map(call("mul", input(0), input(1)), [{ buffer: x, shape }, mask], [], shape, "f32")
            return kernels.scatterAdd(masked, ids, dims)
          },
        },
      }
    },
  },
  "a slice of everything that hands out its argument": {
    check: "kernel slice",
    message: /the result is not a new buffer/,
    change: ({ kernels }) => ({
      kernels: { slice: (x, axis) => (axis.length === axis.n ? x : kernels.slice(x, axis)) },
    }),
  },
  "a permute whose result dies with its argument": {
    check: "kernel permute",
    message: /E_FREED/,
    change: ({ kernels, free }) => {
      const made = new Map<DeviceBuffer, DeviceBuffer>()
      return {
        kernels: {
          permute(x, shape, axes) {
            const turned = kernels.permute(x, shape, axes)
            made.set(x, turned)
            return turned
          },
        },
        free(buffer) {
          free(buffer)
          const turned = made.get(buffer)
          if (turned) free(turned)
        },
      }
    },
  },
  "sums whose last bits change from call to call": {
    check: "kernel reduce",
    message: /the same call again: value/,
    change: ({ kernels }) => {
      let calls = 0
      const scaled = call("mul", input(0), scalar(0))
      return {
        kernels: {
          reduce(op, x, axis) {
            const sum = kernels.reduce(op, x, axis)
            if (op === "max") return sum
            return kernels.map(scaled, [flat(sum)], [1 + (calls++ % 2) * 2 ** -22], [sum.length], "f32")
          },
        },
      }
    },
  },
  "random bits of its own": {
    check: "kernel randomBits",
    message: /^randomBits/,
    change: ({ upload }) => ({
      kernels: {
        randomBits: (_, n) =>
          upload(
            Uint32Array.from({ length: n }, () => Math.random() * 2 ** 32),
            "u32",
          ),
      },
    }),
  },
  "a manifest that declares bf16 without having it": {
    check: "bf16 works if declared and is refused if not",
    message: /E_UNSUPPORTED/,
    change: ({ supports }) => ({ supports: { ...supports, dtypes: [...supports.dtypes, "bf16"] } }),
  },
  "a manifest that does not declare what is there": {
    check: "u8 works if declared and is refused if not",
    message: /^upload of u8: expected E_UNSUPPORTED, but nothing was thrown/,
    change: ({ upload }) => ({ upload: (data, dtype) => upload(data, dtype === "u8" ? "u32" : dtype) }),
  },
  "a limit that is declared and not kept": {
    check: "a buffer above the limit is refused (E_BUFFER_SIZE), one at it is not",
    message: /^upload: expected E_BUFFER_SIZE, but nothing was thrown/,
    change: () => {
      const { upload, kernels } = fakeBackend({ maxBufferBytes: 2 ** 20 })
      return { upload, kernels }
    },
  },
  "a fused softmax that does not take the maximum off": {
    check: "fused softmax equals its decomposition",
    message: /^softmax \[2, 5\] up to 120: value/,
    change: ({ kernels, free }) => ({
      kernels: {
        softmax(x, rows, n) {
          const shape = [rows, n]
          const e = { buffer: kernels.map(call("exp", input(0)), [{ buffer: x, shape }], [], shape, "f32"), shape }
          const sum = { buffer: kernels.reduce("sum", e.buffer, { outer: rows, n, inner: 1 }), shape: [rows, 1] }
          const out = kernels.map(call("div", input(0), input(1)), [e, sum], [], shape, "f32")
          free(e.buffer)
          free(sum.buffer)
          return out
        },
      },
    }),
  },
  "a fused rmsNorm gradient that forgets how the norm depends on x": {
    check: "fused rmsNormBackward equals its decomposition",
    message: /^rmsNorm .*: gradient of input 0: value/,
    change: ({ kernels }) => ({
      kernels: {
        rmsNormBackward(_, weight, dy, { rows, n }) {
          const shape = [rows, n]
          const operands = [{ buffer: dy, shape }, flat(weight)]
          return kernels.map(call("mul", input(0), input(1)), operands, [], shape, "f32")
        },
      },
    }),
  },
}

describe("broken backends", () => {
  for (const [what, { check, message, change }] of Object.entries(broken)) {
    it(`${what}: "${check}"`, async () => {
      const make = (options: { maxBufferBytes?: number }): Backend => {
        const sound = fakeBackend(options)
        const { kernels, ...rest } = change(sound)
        return { ...sound, ...rest, kernels: { ...sound.kernels, ...kernels } }
      }
      const checks = collect((runner) => testBackend(make, { name: what, ...runner }))
      await expect(checks.get(check)?.()).rejects.toThrow(message)
    })
  }

  it('free that gives nothing back: "the backend itself holds nothing after all that"', async () => {
    const make = (): FakeBackend => ({ ...fakeBackend(), free() {} })
    const checks = collect((runner) =>
      testBackend(make, { name: "leak", live: (backend) => backend.live(), ...runner }),
    )
    await checks.get("kernel gather")?.()
    await expect(checks.get("the backend itself holds nothing after all that")?.()).rejects.toThrow(/buffers are alive/)
  })
})
