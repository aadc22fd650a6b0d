/** Backends broken on purpose, each with the check that is meant for it. The sound one they are made from passes them all (conformance.test.ts). */
import {
  type Backend,
  call,
  type DeviceBuffer,
  type Expr,
  hostArray,
  input,
  type MapInput,
  scalar,
  sizeOf,
  type TypedArray,
} from "@peftjs/core"
import { attentionBackwardRows, attentionRows } from "../src/backend/host-attention.ts"
import { layerNormRows, logSumExpRows, softmaxRows } from "../src/backend/host-rows.ts"
import {
  type FakeBackend,
  type FakeBackendOptions,
  fakeBackend,
  type TestBackendOptions,
  testBackend,
} from "../src/index.ts"
import { truncated, withBf16 } from "./bf16-on-fake.ts"
import { brokenPacked } from "./broken-packed.ts"
import type { BrokenThing, BrokenThings } from "./broken-thing.ts"
import { collect } from "./collect.ts"
import { withSums } from "./sums-on-fake.ts"
import { withUpdates } from "./updates-on-fake.ts"

type Replaced = Partial<Omit<Backend, "kernels">> & { kernels?: Partial<Backend["kernels"]> }

export interface Change extends Omit<BrokenThing, "checks"> {
  /** What it does instead of the sound backend. */
  readonly change: (sound: FakeBackend) => Replaced
  /** How the sound backend is made. */
  readonly options?: FakeBackendOptions
  /** How many times the bytes that the broken one is to hold the sound one has to; 1 unless told otherwise. */
  readonly room?: number
  readonly kit?: Partial<TestBackendOptions<FakeBackend>>
}

const flat = (buffer: DeviceBuffer): { buffer: DeviceBuffer; shape: number[] } => ({ buffer, shape: [buffer.length] })

const changes: Readonly<Record<string, Change>> = {
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
  "an upload that keeps the host's memory": {
    check: "an upload is a copy: what the host does with its memory afterwards does not matter",
    message: /^1 f32 values after the host's were overwritten: value 0 is -1/,
    change: (sound) => {
      const given = new Map<DeviceBuffer, TypedArray>()
      return {
        upload(data, dtype) {
          const buffer = sound.upload(data, dtype)
          given.set(buffer, data)
          return buffer
        },
        read: async (buffer) => given.get(buffer)?.slice() ?? sound.read(buffer),
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
    options: { bytes: false },
    change: ({ upload }) => ({ upload: (data, dtype) => upload(data, dtype === "u8" ? "u32" : dtype) }),
  },
  "a limit that is declared and not kept": {
    check: "a buffer above the limit is refused (E_BUFFER_SIZE), one at it is not",
    message: /^upload: expected E_BUFFER_SIZE, but nothing was thrown/,
    change: () => {
      const { upload, free, read, kernels } = fakeBackend({ maxBufferBytes: 2 ** 20 })
      return { upload, free, read, kernels }
    },
  },
  "a fused softmax that does not take the maximum off": {
    check: "fused softmax equals its decomposition, where there is one",
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
    check: "fused rmsNormBackward equals its decomposition, where there is one",
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
  "several expressions of which all give the first one's values": {
    check: "fused maps equals arithmetic on the host, where there is one",
    message: /^maps .*, result 1: value/,
    change: ({ kernels }) => ({
      kernels: {
        maps: (exprs, inputs, scalars, shape) =>
          exprs.map(() => kernels.map(exprs[0] as Expr, inputs, scalars, shape, "f32")),
      },
    }),
  },
  "a softmax with a normaliser that is relative to the largest element": {
    check: "fused softmaxLogSumExp equals arithmetic on the host, where there is one",
    message: /^softmaxLogSumExp .*: logSumExp: value/,
    change: ({ upload, peek }) => ({
      kernels: {
        softmaxLogSumExp(x, rows, n) {
          const values = peek(x)
          const lse = logSumExpRows(values, { rows, n })
          const top = (row: number): number => Math.max(...values.subarray(row * n, (row + 1) * n))
          return [
            upload(Float32Array.from(softmaxRows(values, { rows, n })), "f32"),
            upload(
              Float32Array.from(lse, (value, row) => value - top(row)),
              "f32",
            ),
          ]
        },
      },
    }),
  },
  "a sum of products that forgets the factor of all but the first": {
    check: "fused sumOfProducts equals arithmetic on the host, where there is one",
    message: /^sumOfProducts .*: value/,
    change: (sound) => withSums(sound, { read: (all) => all.map((p, i) => (i > 0 ? { ...p, alpha: 1 } : p)) }),
  },
  "a sum of products that takes its addend once for each": {
    check: "fused sumOfProducts equals its decomposition, where there is one",
    message: /^a layer, its adapter and a residual, added up: value/,
    change: (sound) => withSums(sound, { addends: (products) => products }),
  },
  "an attention whose gradient ignores padding": {
    check: "fused attentionBackward equals arithmetic on the host, where there is one",
    message: /^attentionBackward, padding, one query without a key: d[qkv]: value/,
    change: ({ upload, peek }) => ({
      kernels: {
        attention: (q, k, v, valid, dims) => {
          const shown = valid ? { valid: peek(valid) } : {}
          return upload(Float32Array.from(attentionRows({ q: peek(q), k: peek(k), v: peek(v), ...shown }, dims)), "f32")
        },
        attentionBackward: (q, k, v, _, dy, dims) =>
          attentionBackwardRows({ q: peek(q), k: peek(k), v: peek(v) }, peek(dy), dims).map((gradient) =>
            upload(Float32Array.from(gradient), "f32"),
          ) as never,
      },
    }),
  },
  "a log of sums that is NaN where nothing is left": {
    check: "fused logSumExp equals arithmetic on the host, where there is one",
    message: /^logSumExp \[3, 2\] with -Infinity: value 0 is NaN, not -Infinity/,
    change: ({ upload, peek }) => ({
      kernels: {
        logSumExp: (x, rows, n) => {
          const found = Float32Array.from(logSumExpRows(peek(x), { rows, n }))
          return upload(n === 0 ? found : found.map((y) => (y === Number.NEGATIVE_INFINITY ? Number.NaN : y)), "f32")
        },
      },
    }),
  },
  "a layerNorm that divides by n - 1": {
    check: "fused layerNorm equals arithmetic on the host, where there is one",
    message: /^layerNorm \[\d+, \d+\]: value/,
    change: ({ upload, peek }) => ({
      kernels: {
        layerNorm: (x, weight, bias, { rows, n, eps }) => {
          const scaled = peek(weight).map((w) => w * Math.sqrt((n - 1) / n))
          return upload(Float32Array.from(layerNormRows(peek(x), scaled, peek(bias), { rows, n, eps })), "f32")
        },
      },
    }),
  },
  "a rope that turns the other way": {
    check: "fused rope equals its decomposition, where there is one",
    message: /^rope, angles of 1 rows: value/,
    change: ({ upload, peek }) => ({
      kernels: {
        rope: (x, cos, sin, { outer, rows, tokens, heads, dim }) => {
          const [values, c, s, half] = [peek(x), peek(cos), peek(sin), dim / 2]
          const turned = Float32Array.from(values, (value, at) => {
            const [d, token, text] = [at % dim, Math.floor(at / (heads * dim)) % tokens, at / (tokens * heads * dim)]
            const angle = ((rows === outer ? Math.floor(text) : 0) * tokens + token) * half + (d % half)
            const other = d < half ? (values[at + half] as number) : -(values[at - half] as number)
            return value * (c[angle] as number) + other * (s[angle] as number)
          })
          return upload(turned, "f32")
        },
      },
    }),
  },
  "a map that repeats an operand instead of broadcasting it": {
    check: "kernel map",
    message: /^map \[3,5\] with \[3,1\]: value/,
    change: ({ kernels, upload, peek, free }) => ({
      kernels: {
        map(expr, inputs, scalars, shape, dtype) {
          const cyclic = inputs.map(({ buffer, shape: own }): MapInput => {
            if (buffer.dtype === "u32" || buffer.length === 0) return { buffer, shape: own }
            const values = peek(buffer)
            const all = hostArray(buffer.dtype, sizeOf(shape))
            for (let i = 0; i < all.length; i++) all[i] = values[i % values.length] as number
            return { buffer: upload(all, buffer.dtype), shape }
          })
          const out = kernels.map(expr, cyclic, scalars, shape, dtype)
          for (const [i, { buffer }] of cyclic.entries()) if (buffer !== inputs[i]?.buffer) free(buffer)
          return out
        },
      },
    }),
  },
  "a slice that loses the last element of an odd number": {
    check: "kernel slice",
    message: /^slice .*: value \d+ is 0/,
    change: ({ kernels, upload, peek, free }) => ({
      kernels: {
        slice(x, axis) {
          const out = kernels.slice(x, axis)
          if (out.length % 2 === 0) return out
          const values = peek(out)
          values[values.length - 1] = 0
          free(out)
          return upload(values, out.dtype)
        },
      },
    }),
  },
  "a gather that starts no more than 65 535 workgroups": {
    check: "kernel gather over more than 65 535 workgroups, where a buffer may hold 35 MB",
    message: /^gather 70001 of \[1019, 61\]: value 4194240 is 0/,
    options: { maxBufferBytes: 36e6 },
    change: ({ kernels, upload, peek, free }) => ({
      kernels: {
        gather(table, ids, dims) {
          const out = kernels.gather(table, ids, dims)
          if (out.length <= 65_535 * 64) return out
          const values = peek(out).fill(0, 65_535 * 64)
          free(out)
          return upload(values, "f32")
        },
      },
    }),
  },
  "a concat that does not look at the limit": {
    check: "a buffer above the limit is refused (E_BUFFER_SIZE), one at it is not",
    message: /^concat: expected E_BUFFER_SIZE, but nothing was thrown/,
    change: ({ kernels, supports }) => ({
      kernels: {
        concat(xs, axis) {
          const bytes = 4 * axis.outer * axis.inner * axis.ns.reduce((a, b) => a + b, 0)
          // Of a concat above the limit it makes a shorter one.
          return bytes <= supports.maxBufferBytes
            ? kernels.concat(xs, axis)
            : kernels.concat(xs.slice(0, 1), {
                ...axis,
                ns: axis.ns.slice(0, 1),
              })
        },
      },
    }),
  },
  "a manifest with a kernel that is not there": {
    check: "the manifest has its required parts",
    message: /^softmax is declared, but is undefined/,
    change: () => ({ kernels: { softmax: undefined as never } }),
  },
  "bf16 that is cut off instead of rounded": {
    check: "bf16 works if declared and is refused if not",
    message: /^map of f32 to bf16: value/,
    room: 2,
    change: (sound) => withBf16(sound, truncated),
  },
  "an adamw that writes the gradient as well": {
    check: "in-place adamw equals its formula, where there is one",
    message: /^adamw of 1: g: value/,
    change: (sound) => withUpdates(sound, { alsoGradient: true }),
  },
  "a loss that leaves a pending read hanging": {
    check: "a lost device: calls throw E_DEVICE_LOST, a read begun before settles, free is silent, `lost` resolves",
    message: /^a read begun before the loss did not settle/,
    options: { losable: true },
    kit: { lose: (backend) => backend.lose() },
    change: ({ read, lose }) => {
      const gone = { yes: false }
      return {
        lose() {
          gone.yes = true
          lose()
        },
        async read(buffer) {
          const values = await read(buffer)
          await Promise.resolve()
          return gone.yes ? new Promise<never>(() => {}) : values
        },
      } as Partial<FakeBackend>
    },
  },
  "a lost device that goes on answering": {
    check: "a lost device: calls throw E_DEVICE_LOST, a read begun before settles, free is silent, `lost` resolves",
    message: /^upload: expected E_DEVICE_LOST, but nothing was thrown/,
    options: { losable: true },
    kit: { lose: (backend) => backend.lose() },
    change: ({ upload, free, kernels }) => {
      const other = fakeBackend()
      const strays = new Set<DeviceBuffer>()
      return {
        upload(data, dtype) {
          try {
            return upload(data, dtype)
          } catch (error) {
            if ((error as { code?: string }).code !== "E_DEVICE_LOST") throw error
            const stray = other.upload(data, dtype)
            strays.add(stray)
            return stray
          }
        },
        free: (buffer) => (strays.has(buffer) ? other.free(buffer) : free(buffer)),
        kernels,
      }
    },
  },
  "a device that can be lost and does not say so": {
    check: "a device that the kit is not told how to lose declares no `lost`",
    message: /^the backend declares `lost`/,
    options: { losable: true },
    change: () => ({}),
  },
  "free that gives nothing back": {
    check: "the backend itself holds nothing after all that",
    message: /buffers are alive that everybody has freed/,
    after: ["kernel gather"],
    kit: { live: (backend) => backend.live() },
    change: () => ({ free() {} }),
  },
  ...brokenPacked,
}

/** Each with the kit's checks on it. */
export const brokenBackends: BrokenThings = Object.fromEntries(
  Object.entries(changes).map(([what, { change, options, room = 1, kit, ...thing }]) => {
    const make = (wanted: FakeBackendOptions): FakeBackend => {
      const { maxBufferBytes = 2 ** 14, ...rest } = { ...options, ...wanted }
      const sound = fakeBackend({ ...rest, maxBufferBytes: maxBufferBytes * room })
      const { kernels, ...replaced } = change(sound)
      return { ...sound, ...replaced, kernels: { ...sound.kernels, ...kernels } }
    }
    const checks: BrokenThing["checks"] = () =>
      collect((runner) => testBackend(make, { name: what, ...kit, ...runner }))
    return [what, { ...thing, checks }]
  }),
)
