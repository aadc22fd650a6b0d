/**
 * Q4_0, Q4_1 and Q8_0 as weight formats: made of rows that stream in, or read from what a GGUF file holds of a module.
 * They have no form in safetensors, so a model with such weights is saved dense. Knows no model and no adapter.
 */
import {
  type Backend,
  type PackedData,
  type PackedLayout,
  type PackedWeight,
  PeftError,
  packedWeight,
  type Weight,
  type WeightFiles,
  type WeightFormat,
} from "@peftjs/core"
import { blockValues, codeBooks, quantiser, unpackBlocks } from "./blocks.ts"
import { type PackedKind, packedKinds } from "./kinds.ts"

/** Four bits around zero, one scale for 32 values: 4.5 bits a value in a file. */
export const q4_0 = (): WeightFormat => formatOf("Q4_0")

/** Four bits from a minimum on, one scale for 32 values: 5 bits a value in a file. */
export const q4_1 = (): WeightFormat => formatOf("Q4_1")

/** Eight bits around zero, one scale for 32 values: 8.5 bits a value in a file. */
export const q8_0 = (): WeightFormat => formatOf("Q8_0")

/** quant_method of config.json. */
export const quantMethod = "gguf"

/** What a packed weight is called behind its module's path: "weight.q4_0". */
export const packedName = (kind: PackedKind): string => `weight.${kind.toLowerCase()}`

/** Packs another matrix of the weight's shape as it is packed: what a method leaves of it (`storedLike`). */
const alike = (kind: PackedKind, backend: Backend, weight: PackedWeight): Weight => ({
  ...weight,
  encode: (rows) => formatOf(kind).encode(backend, weight.shape, rows),
})

function formatOf(kind: PackedKind): WeightFormat {
  const layout: PackedLayout = {
    format: kind.toLowerCase(),
    bits: kind === "Q8_0" ? 8 : 4,
    codeBook: codeBooks[kind],
    blockSize: blockValues,
    dtype: "f32",
  }
  return {
    name: layout.format,
    files: filesOf(kind, layout),
    async encode(backend, shape, rows, { source } = {}): Promise<Weight> {
      const made = quantiser(kind, shape[0] * shape[1])
      for await (const some of rows) made.push(some)
      return alike(kind, backend, packedWeight(backend, layout, shape, made.finish(), source ? { source } : {}))
    },
  }
}

function filesOf(kind: PackedKind, layout: PackedLayout): WeightFiles {
  const name = packedName(kind)
  const { values, bytes } = packedKinds[kind]
  return {
    config: () => ({ quant_method: quantMethod }),
    claims: (config) => config.quant_method === quantMethod,
    names: (present) => (present.includes(name) ? [name] : undefined),
    read(backend, module, shape, tensors, { source } = {}) {
      const found = tensors.get(name)
      const [rows, columns] = shape
      if (found?.shape[0] !== rows || found.shape[1] !== (columns / values) * bytes) {
        const given = found ? [found.shape[0], ((found.shape[1] as number) / bytes) * values] : "missing"
        throw new PeftError(
          "E_QUANT_STATE",
          `[gguf] ${module}.weight is [${given}] in ${kind}, the metadata makes the layer [${shape}]; fetch the file again`,
        )
      }
      const data = unpackBlocks(kind, found.data as Uint8Array)
      checkFinite(`${module}.weight`, kind, data)
      return alike(kind, backend, packedWeight(backend, layout, shape, data, source ? { source } : {}))
    },
  }
}

/** Throws E_NOT_FINITE naming the tensor and the block; the first of them is `first` of the tensor's. */
export function checkFinite(name: string, kind: PackedKind, { scales, minimums }: PackedData, first = 0): void {
  for (const [what, list] of [
    ["scale", scales],
    ["minimum", minimums ?? []],
  ] as const) {
    const at = list.findIndex((x) => !Number.isFinite(x))
    if (at < 0) continue
    throw new PeftError(
      "E_NOT_FINITE",
      `[gguf] ${name}: the ${what} of block ${first + at} (${kind}) is ${list[at]}; the file is broken: fetch it again, or convert its source anew`,
    )
  }
}

/** All of them: a GGUF file mixes kinds. */
export const ggufFormats: readonly WeightFormat[] = [q4_0(), q4_1(), q8_0()]
