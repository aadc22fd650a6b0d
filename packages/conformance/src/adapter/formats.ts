/** Formats in which the weights under an adapter are stored: it must neither notice nor touch them, and train as on their values in f32. */
import {
  type Backend,
  type DType,
  denseWeight,
  engineOf,
  hostValues,
  isPeftError,
  type Model,
  merge,
  storedLike,
  tensor,
  trainables,
  unmerge,
  uploadDense,
  type Weight,
  type WeightFormat,
} from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import { toyModel, toyModelIn } from "../toy-model.ts"
import { perturb, toyLogits, toyLosses, toyStep } from "../toy-training.ts"
import { mergedTolerance, mergeTargets } from "./merging.ts"
import type { Subject } from "./subject.ts"

/** Dense rows of 32-bit or 16-bit floats, in one part or, with `rows`, in parts of so many rows. */
function dense(name: DType, encode: (values: Float32Array) => Float32Array | Uint16Array, rows?: number): WeightFormat {
  return {
    name,
    async encode(backend, shape, blocks) {
      const data = encode(await joined(blocks))
      if (rows === undefined) return uploadDense(backend, data, name, shape)
      const [n, columns] = shape
      const starts = Array.from({ length: Math.ceil(n / rows) }, (_, i) => i * rows)
      return denseWeight(
        starts.map((at) => {
          const end = Math.min(n, at + rows)
          return tensor(backend, data.subarray(at * columns, end * columns), [end - at, columns], name)
        }),
      )
    },
  }
}

const asIs = (values: Float32Array): Float32Array => values

/** Patterns of 16 bits, rounded to the nearest; what is too small for normal numbers becomes 0. */
function halves(values: Float32Array, exponentBits: 5 | 8): Uint16Array {
  const dropped = exponentBits === 8 ? 16 : 13
  const bias = exponentBits === 8 ? 0 : 112 << 10
  return Uint16Array.from(new Uint32Array(values.buffer, values.byteOffset, values.length), (bits) => {
    const rounded = (((bits & 0x7fffffff) + (1 << (dropped - 1))) >>> dropped) - bias
    return ((bits >>> 16) & 0x8000) | (rounded >= 1 << (15 - exponentBits) ? rounded : 0)
  })
}

/** Rows that only the weight itself can get at, as in a packed format. */
const closed: WeightFormat = {
  name: "closed",
  async encode(backend, shape, blocks) {
    const inner = await dense("f32", asIs).encode(backend, shape, blocks)
    return { ...inner, format: "closed", parts: inner.parts.map(({ start, end }) => ({ start, end })) }
  },
}

const denseFormats: Readonly<Record<string, WeightFormat>> = {
  "a format of their own": closed,
  "f32 in parts of five rows": dense("f32", asIs, 5),
  bf16: dense("bf16", (values) => halves(values, 8)),
  f16: dense("f16", (values) => halves(values, 5)),
}

export function formatChecks(subject: Subject): void {
  const { it, base, method, options } = subject
  const given = options.weights ?? {}
  for (const [name, format] of Object.entries({ ...denseFormats, ...given })) {
    const element = name in given ? "u8" : format.name
    it(`on weights in ${name} it computes and learns as on the same values in f32, if the backend has them`, async () => {
      const { backend } = await base()
      const bare = await base(() => toyModelIn(backend, format)).catch((error: unknown) =>
        refusal(error, element, backend),
      )
      if (!bare) return
      const matrices = await matricesOf(bare)
      const twin = await base(() => toyModel(backend, 0, { weights: matrices }))
      const plain = await toyLosses(bare)
      const [view, other] = [await perturbed(subject, bare), await perturbed(subject, twin)]
      close(await toyLogits(view), await toyLogits(other), 1e-5, "logits")
      for (const {
        name: path,
        tensor: { dtype },
      } of trainables(view))
        check(dtype === "f32", `${path} is ${dtype}; what is trained must be f32`)
      if (method.mergeable) {
        const at = await mergeTargets(subject)
        const { model: merged } = await merge(await perturbed(subject, bare, at))
        const expected = await toyLogits(await perturbed(subject, twin, at))
        close(await toyLogits(merged), expected, mergedTolerance, "merged: logits")
        unmerge(merged)
      }
      for (let step = 0; step < 2; step++)
        close([await toyStep(view, step)], [await toyStep(other, step)], 1e-4, `loss of step ${step}`)
      same(await toyLosses(bare), plain, "the weights under it afterwards: losses")
    })
  }
}

async function perturbed({ adapted }: Subject, model: Model, at?: readonly string[]): Promise<Model> {
  const view = await adapted(model, "default", at)
  perturb(view)
  return view
}

/** A backend may lack an element type if it says so; what is not a dense format is made of bytes. */
function refusal(error: unknown, element: string, { supports }: Backend): undefined {
  const declared = (supports.dtypes as readonly string[]).includes(element)
  if (!isPeftError(error) || error.code !== "E_UNSUPPORTED" || declared) throw error
}

/** The values of a model's matrices as dense f32. What a method leaves of one loses as much there as where it is stored as the model's is. */
async function matricesOf({ sites, backend }: Model): Promise<Map<string, Weight>> {
  const matrices = new Map<string, Weight>()
  for (const { path, base } of sites.values()) {
    const twinOf = async (weight: Weight): Promise<Weight> =>
      uploadDense(backend, await hostValues(engineOf(backend), weight), "f32", base.shape)
    matrices.set(path, {
      ...(await twinOf(base)),
      async encode(rows) {
        const stored = await storedLike(backend, base, await joined(rows))
        const twin = await twinOf(stored)
        stored.free()
        return twin
      },
    })
  }
  return matrices
}

async function joined(blocks: AsyncIterable<Float32Array>): Promise<Float32Array> {
  const all: number[] = []
  for await (const block of blocks) all.push(...block)
  return Float32Array.from(all)
}
