/** Backends whose packed kernels are broken on purpose, each with the check that is meant for it. The sound one passes them all (conformance.test.ts). */
import type { DeviceBuffer, PackedLayout } from "@peftjs/core"
import { call, input, scalar } from "@peftjs/core"
import { type HostPart, packedValues } from "../src/backend/host-packed.ts"
import type { FakeBackend } from "../src/index.ts"
import type { Change } from "./broken-backends.ts"
import { type Mistakes, withPacked } from "./packed-on-fake.ts"

const unpack = "fused unpack equals arithmetic on the host, where there is one"
const product = "fused packedMatmul equals arithmetic on the host, where there is one"

/** A matrix misread by both kernels. */
const misread = (message: RegExp, mistakes: Mistakes): Change => ({
  check: unpack,
  message,
  change: (sound) => withPacked(sound, mistakes),
})
const layoutWith = ({ layout }: HostPart, change: Partial<PackedLayout>): PackedLayout => ({ ...layout, ...change })

type Product = NonNullable<FakeBackend["kernels"]["packedMatmul"]>
const wrongProduct = (message: RegExp, change: (sound: Product, backend: FakeBackend) => Product): Change => ({
  check: product,
  message,
  change: (backend) => {
    const packed = withPacked(backend)
    return { kernels: { ...packed.kernels, packedMatmul: change(packed.kernels.packedMatmul as Product, packed) } }
  },
})
/** A copy of a vector or matrix, its elements changed. */
const copied = (
  { upload, peek }: FakeBackend,
  x: DeviceBuffer,
  change: (value: number, at: number) => number,
): DeviceBuffer => upload(Float32Array.from(peek(x), change), "f32")

export const brokenPacked: Readonly<Record<string, Change>> = {
  "nibbles in the other order": misread(/^unpack rows .* of 4 bits in blocks of .*: value 0/, {
    read: (part) => (part.layout.bits === 8 ? part : { ...part, codes: part.codes.map((b) => (b >> 4) | (b << 4)) }),
  }),
  "a packed part that is read from its first block's beginning": misread(/^unpack rows .*: value/, {
    read: (part) => ({ ...part, offset: 0 }),
  }),
  "scales of the block before the part's first": misread(/^unpack rows .*: value/, {
    read: (part) => ({ ...part, skip: 0 }),
  }),
  "nested scales without their offset": misread(/^unpack rows .*, nested.*: value 0/, {
    read: (part) => {
      const { nested } = part.layout
      return nested ? { ...part, layout: layoutWith(part, { nested: { ...nested, offset: 0 } }) } : part
    },
  }),
  "minimums that are forgotten": misread(/^unpack rows .*, with minimums.*: value 0/, {
    read: ({ minimums: _, ...part }) => part,
  }),
  "minimums that are multiplied by the scale": misread(/^unpack rows .*, with minimums.*: value 0/, {
    values(part, count) {
      const { minimums, ...rest } = part
      const { blockSize } = part.layout
      const ones = { ...rest, layout: layoutWith(part, { codeBook: part.layout.codeBook.map(() => 1) }) }
      const scale = packedValues(ones, count)
      return packedValues(rest, count).map((value, i) => {
        const low = minimums?.[Math.floor((part.offset + i) / blockSize)] ?? 0
        return value + low * (scale[i] as number)
      })
    },
  }),
  "a code book of 8 bits of which half is known": misread(/^unpack rows .* of 8 bits.*: value/, {
    read: (part) => (part.layout.bits === 4 ? part : { ...part, codes: part.codes.map((byte) => byte & 127) }),
  }),
  "blocks that begin anew with every row": misread(/^unpack rows .* \[4, 10\] of 8 bits in blocks of 7.*: value/, {
    values(part, count, columns) {
      const { layout, codes, offset, skip } = part
      if (layout.bits === 4) return packedValues(part, count)
      const blocks = Math.ceil(columns / layout.blockSize)
      const rows = Array.from({ length: count / columns }, (_, row) => {
        const own = { ...part, codes: codes.subarray(offset + row * columns), offset: 0, skip: skip + row * blocks }
        return [...packedValues(own, columns)]
      })
      return Float32Array.from(rows.flat())
    },
  }),
  "rows that are unpacked from the first one on": {
    check: unpack,
    message: /^unpack rows [1-9].*: value 0/,
    change: (sound) => {
      const { kernels } = withPacked(sound)
      const { unpack } = kernels
      return {
        kernels: {
          ...kernels,
          unpack: (w, { start, end, columns }) =>
            (unpack as NonNullable<typeof unpack>)(w, { start: 0, end: end - start, columns }),
        },
      }
    },
  },
  "a packed product that is never transposed where the matrix is square": wrongProduct(
    /^packedMatmul of 1 rows by \[7, 7\].*: value/,
    (sound) => (x, w, dims) => sound(x, w, { ...dims, transpose: dims.transpose && dims.rows !== dims.columns }),
  ),
  "a packed product by pairs of columns that leaves an odd one out": wrongProduct(
    /^packedMatmul of 1 rows by the transpose of \[9, 7\].*: value/,
    (sound, backend) => (x, w, dims) => {
      const { m, columns, transpose } = dims
      if (m !== 1 || transpose || columns % 2 === 0) return sound(x, w, dims)
      const without = copied(backend, x, (value, at) => (at === columns - 1 ? 0 : value))
      const out = sound(without, w, dims)
      backend.free(without)
      return out
    },
  ),
  "a packed product of no rows that has one": wrongProduct(
    /^packedMatmul of 0 rows .*: the result has \d+ elements, not 0/,
    (sound, backend) => (x, w, dims) =>
      dims.m > 0
        ? sound(x, w, dims)
        : backend.upload(new Float32Array(dims.transpose ? dims.columns : dims.rows), "f32"),
  ),
  "a packed product that stops at a tile of 64 rows": wrongProduct(
    /^packedMatmul of 65 rows .*: value/,
    (sound, backend) => (x, w, dims) => {
      const out = sound(x, w, dims)
      const done = 64 * (dims.transpose ? dims.columns : dims.rows)
      if (out.length <= done) return out
      const cut = copied(backend, out, (value, at) => (at < done ? value : 0))
      backend.free(out)
      return cut
    },
  ),
  "a packed product that is right by itself and differs from its own unpacked rows": {
    check: "fused packedMatmul equals its decomposition, where there is one",
    message: /^packed \[\d+, \d+\].*: (product|gradient)/,
    change: (backend) => {
      const { kernels, upload, peek } = withPacked(backend)
      const { packedMatmul } = kernels
      return {
        kernels: {
          ...kernels,
          packedMatmul(x, w, dims) {
            const out = (packedMatmul as Product)(x, w, dims)
            // Only core asks for so many rows of a matrix in parts.
            if (w.skip === 0 && w.offset === 0) return out
            const values = Float32Array.from(peek(out), (value) => value * 1.01)
            backend.free(out)
            return upload(values, "f32")
          },
        },
      }
    },
  },
  "bytes that are read as signed numbers": {
    check: "u8 works if declared and is refused if not",
    message: /^map of u8 to f32: value 3 is -67, not 189/,
    change: ({ kernels }) => {
      const signed = call("select", call("lt", input(0), scalar(0)), input(0), call("sub", input(0), scalar(1)))
      return {
        kernels: {
          map(expr, inputs, scalars, shape, dtype) {
            if (inputs[0]?.buffer.dtype !== "u8" || inputs.length > 1)
              return kernels.map(expr, inputs, scalars, shape, dtype)
            return kernels.map(signed, inputs, [128, 256], shape, dtype)
          },
        },
      }
    },
  },
}
