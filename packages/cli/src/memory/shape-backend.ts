/**
 * A backend that computes nothing and counts: its buffers have a type and a length, and no contents. What runs on it asks for memory and
 * gives it back exactly as on the backend it stands for. Reading a buffer gives zeros.
 */
import {
  type AttentionDims,
  type Backend,
  bytesPerElement,
  type DeviceBuffer,
  type DType,
  type FusedKernels,
  hostArray,
  type InPlaceKernels,
  type RequiredKernels,
  sizeOf,
} from "@peftjs/core"

export interface ShapeBackend extends Backend {
  /** Bytes of the buffers that exist now. */
  live(): number
  /** The most there have been since this was last asked. */
  takePeak(): number
  /** Multiplications and additions of all products so far. */
  flops(): number
}

/** Has the limits of `like`, and those of its optional kernels that are known here; core does without the others, in more memory. */
export function shapeBackend({ name, supports, kernels }: Backend): ShapeBackend {
  let [live, peak, flops] = [0, 0, 0]
  const make = (dtype: DType, length: number): DeviceBuffer => {
    live += length * bytesPerElement[dtype]
    peak = Math.max(peak, live)
    return { dtype, length }
  }
  const count = (m: number, n: number, k: number): void => {
    flops += 2 * m * n * k
  }
  const optional = Object.entries(optionalKernels(make, count)).filter(([key]) => key in kernels)
  return {
    name,
    specVersion: 1,
    supports,
    upload: (data, dtype) => make(dtype, data.length),
    free({ dtype, length }) {
      live -= length * bytesPerElement[dtype]
    },
    read: async ({ dtype, length }) => hostArray(dtype, length),
    flush: async () => {},
    kernels: { ...requiredKernels(make, count), ...Object.fromEntries(optional) },
    live: () => live,
    takePeak() {
      const seen = peak
      peak = live
      return seen
    },
    flops: () => flops,
  }
}

type Make = (dtype: DType, length: number) => DeviceBuffer
/** Of a product [m, k] · [k, n]. */
type Count = (m: number, n: number, k: number) => void

function requiredKernels(make: Make, count: Count): RequiredKernels {
  return {
    map: (_expr, _inputs, _scalars, shape, dtype) => make(dtype, sizeOf(shape)),
    reduce: (_op, _x, { outer, inner }) => make("f32", outer * inner),
    matmul(_a, _b, { batch, m, n, k }) {
      count(batch * m, n, k)
      return make("f32", batch * m * n)
    },
    gather: (_table, _ids, { width, n }) => make("f32", n * width),
    scatterAdd: (_x, _ids, { rows, width }) => make("f32", rows * width),
    permute: (x) => make(x.dtype, x.length),
    slice: (x, { outer, length, inner }) => make(x.dtype, outer * length * inner),
    concat: (xs, { outer, ns, inner }) =>
      make(xs[0]?.dtype ?? "f32", outer * inner * ns.reduce((sum, n) => sum + n, 0)),
    randomBits: (_key, n) => make("u32", n),
  }
}

/** What a query sees of the keys, added up over the queries of one head. */
function seen({ queries, keys, offset, window = Number.POSITIVE_INFINITY }: AttentionDims): number {
  let total = 0
  for (let i = 0; i < queries; i++)
    total += Math.max(0, Math.min(keys, i + offset + 1) - Math.max(0, i + offset + 1 - window))
  return total
}

function optionalKernels(make: Make, count: Count): Partial<FusedKernels> & InPlaceKernels {
  const like = ({ length }: DeviceBuffer): DeviceBuffer => make("f32", length)
  return {
    maps: (exprs, _inputs, _scalars, shape) => exprs.map(() => make("f32", sizeOf(shape))),
    softmax: like,
    rmsNorm: like,
    rmsNormBackward: like,
    logSumExp: (_x, rows) => make("f32", rows),
    softmaxLogSumExp: (x, rows) => [like(x), make("f32", rows)],
    rope: like,
    layerNorm: like,
    layerNormBackward: like,
    // Two products, and the gradients of both: what is computed a second time is not counted.
    attention(q, _k, _v, _valid, dims) {
      count(2 * dims.batch * dims.heads, dims.dim, seen(dims))
      return like(q)
    },
    attentionBackward(q, k, v, _valid, _dy, dims) {
      count(4 * dims.batch * dims.heads, dims.dim, seen(dims))
      return [like(q), like(k), like(v)]
    },
    packedMatmul(_x, _w, { m, rows, columns, transpose }) {
      count(m, rows, columns)
      return make("f32", m * (transpose ? columns : rows))
    },
    sumOfProducts(products, _addend, { m, n }) {
      for (const { k } of products) count(m, n, k)
      return make("f32", m * n)
    },
    unpack: (_w, { start, end, columns }) => make("f32", (end - start) * columns),
    adamw: () => {},
  }
}
