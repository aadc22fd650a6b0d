/**
 * Eight bits with one scale for each row, the weights of LLM.int8() (Dettmers et al. 2022); activations stay as they are.
 * Rounded to float16 first, as bitsandbytes does. Knows no model and no adapter.
 */
import {
  type Backend,
  type PackedLayout,
  type PackedWeight,
  packedWeight,
  readPacked,
  roundedTo,
  type StoredWeight,
  valueCountError,
  type Weight,
  type WeightFiles,
  type WeightFormat,
} from "@peftjs/core"
import { largest } from "./blocks.ts"
import { bytesOf, f32Of, finite, quantisationConfig, stateError } from "./files.ts"

/** Value of each pattern of 8 bits, two's complement, as a part of the row's largest. */
const book = Float32Array.from({ length: 256 }, (_, i) => (i < 128 ? i : i - 256) / 127)

const layoutOf = (columns: number): PackedLayout => ({
  ...{ format: "int8", bits: 8, codeBook: book, blockSize: columns, dtype: "f32" },
})

/** Weight-only int8, row by row. */
export function int8(): WeightFormat {
  return {
    name: "int8",
    files,
    async encode(backend, shape, rows, { source } = {}): Promise<Weight> {
      const [out, columns] = shape
      const codes = new Uint8Array(out * columns)
      const scales = new Float32Array(out)
      let row = 0
      for await (const some of rows) {
        const count = some.length / columns
        if (!Number.isInteger(count) || row + count > out)
          throw valueCountError("int8", row * columns + some.length, out * columns)
        const values = roundedTo("f16", some)
        for (let i = 0; i < count; i++, row++) {
          const one = values.subarray(i * columns, (i + 1) * columns)
          const top = largest("int8", one, columns)
          scales[row] = top
          // torch divides a number by a tensor as the number times the reciprocal.
          const scale = top === 0 ? 0 : Math.fround(127 * Math.fround(1 / top))
          for (let j = 0; j < columns; j++)
            codes[row * columns + j] = halfToEven(Math.fround((one[j] as number) * scale)) & 0xff
        }
      }
      if (row !== out) throw valueCountError("int8", row * columns, out * columns)
      const packed = packedWeight(backend, layoutOf(columns), shape, { codes, scales }, source ? { source } : {})
      return storedInt8(backend, packed)
    },
  }
}

/** To the nearest whole number, a half to the even one. */
function halfToEven(x: number): number {
  return x + 0x18000000000000 - 0x18000000000000
}

const names = ["weight", "SCB", "weight_format"]

const files: WeightFiles = {
  config: (model) => quantisationConfig(model, { _load_in_8bit: true, load_in_8bit: true }),
  claims: (config) => config.quant_method === "bitsandbytes" && config.load_in_8bit === true,
  names: (present) => (present.includes("SCB") ? names.filter((name) => present.includes(name)) : undefined),
  read(backend, module, shape, tensors, { source } = {}) {
    const given = { module, tensors }
    const [out, columns] = shape
    const dtype = tensors.get("weight")?.dtype
    if (dtype !== "I8") throw stateError(`${module}.weight`, `it is ${dtype ?? "missing"}; int8 needs I8`)
    if (tensors.has("weight_format") && bytesOf(given, "weight_format", 1)[0] !== 0)
      throw stateError(`${module}.weight_format`, "only 0, row by row, is known")
    const scales = finite(given, "SCB", f32Of(given, "SCB", out))
    const data = { codes: bytesOf(given, "weight", out * columns), scales }
    return storedInt8(backend, packedWeight(backend, layoutOf(columns), shape, data, source ? { source } : {}))
  },
}

function storedInt8(backend: Backend, weight: PackedWeight): Weight {
  const { packed } = weight
  const stored: StoredWeight = new Map([
    ["weight", { dtype: "I8", shape: packed.shape, data: () => readPacked(packed, "codes") }],
    ["SCB", { dtype: "F32", shape: [packed.shape[0]], data: () => readPacked(packed, "scales") }],
    ["weight_format", { dtype: "U8", shape: [], data: Uint8Array.of(0) }],
  ])
  return { ...weight, stored, encode: (rows) => int8().encode(backend, packed.shape, rows) }
}
