/** Weight formats broken on purpose, under a sound method, each refused by the check of the kit that is meant for it. */
import { denseWeight, PeftError, type Tensor, tensor, type Weight, type WeightFormat } from "@peftjs/core"
import { fakeBackend, testAdapter } from "../src/index.ts"
import { sound } from "./broken-methods.ts"
import type { BrokenThing, BrokenThings } from "./broken-thing.ts"
import { collect } from "./collect.ts"

/** Dense f32 rows behind a weight of its own, which may do something else. */
const closed = (change: (inner: Weight) => Partial<Weight>): WeightFormat => ({
  name: "closed",
  async encode(backend, shape, rows) {
    const values: number[] = []
    for await (const some of rows) values.push(...some)
    const inner = denseWeight([tensor(backend, Float32Array.from(values), shape)])
    const parts = inner.parts.map(({ start, end }) => ({ start, end }))
    return { ...inner, format: "closed", parts, ...change(inner) }
  },
})
const product = (matmul: (inner: Weight, x: Tensor, transpose: boolean) => Tensor): WeightFormat =>
  closed((inner) => ({ matmul: (x, { transpose = false } = {}) => matmul(inner, x, transpose) }))

/** The one that the others are made from. */
export const soundFormat: WeightFormat = closed(() => ({}))

/** One that a backend without bytes may refuse, and no other. */
export const refusedFormat: WeightFormat = {
  name: "packed",
  encode: async () => {
    throw new PeftError("E_UNSUPPORTED", "[packed] this backend has no u8; use dense weights there")
  },
}

const broken: Readonly<Record<string, { readonly format: WeightFormat; readonly message: RegExp }>> = {
  "a product that is not that of its rows": {
    message: /^logits: value/,
    format: product((inner, x, transpose) => inner.matmul(x, { transpose }).mul(transpose ? 1 : 1.01)),
  },
  "rows by ids that are another's": {
    message: /^logits: value/,
    format: closed((inner) => ({
      rows: (which) => ("shape" in which ? inner.rows(which).mul(0.9) : inner.rows(which)),
    })),
  },
  "a product that no gradient passes": {
    message: /^loss of step 1: value/,
    format: product((inner, x, transpose) => inner.matmul(x.detach(), { transpose })),
  },
  "a product whose gradient is lost for half of its outputs": {
    message: /^loss of step 1: value/,
    format: product((inner, x, transpose) => {
      const y = inner.matmul(x, { transpose })
      const half = Float32Array.from({ length: y.shape.at(-1) as number }, (_, i) => i % 2)
      const mask = tensor(y.engine.backend, half, [half.length])
      return y.mul(mask).add(y.detach().mul(mask.sub(1).mul(-1)))
    }),
  },
  "a packed format that is refused although the backend has bytes": {
    message: /E_UNSUPPORTED/,
    format: refusedFormat,
  },
}

export const formatCheck =
  "on weights in a made-up format it computes and learns as on the same values in f32, if the backend has them"

/** The checks of a sound method over a format. */
export function checksOver(format: WeightFormat, bytes = true): ReturnType<BrokenThing["checks"]> {
  const options = { backends: { fake: () => fakeBackend({ bytes }) }, weights: { "a made-up format": format } }
  return collect((runner) => testAdapter(sound, { ...options, ...runner }))
}

export const brokenFormats: BrokenThings = Object.fromEntries(
  Object.entries(broken).map(([what, { format, message }]) => [
    what,
    { check: formatCheck, message, checks: () => checksOver(format) },
  ]),
)
