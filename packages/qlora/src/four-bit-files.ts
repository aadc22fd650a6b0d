/**
 * How bitsandbytes stores a 4-bit weight in safetensors (bitsandbytes/functional.py: QuantState.as_dict and from_dict, 0.50.2): packed
 * bytes, scales, maps, and the rest as JSON in the spacing of Python's json.dumps. Knows no model.
 */
import {
  type Backend,
  type PackedData,
  type PackedLayout,
  type PackedWeight,
  packedSizes,
  packedWeight,
  readPacked,
  type StoredWeight,
  type TensorRef,
  type ValueType,
  type Weight,
  type WeightFiles,
} from "@peftjs/core"
import { blockSizes } from "./block-sizes.ts"
import { type CodeBook, dynamicBook } from "./code-books.ts"
import { bytesOf, checkMap, f32Of, finite, type Given, quantisationConfig, stateError, torchTypes } from "./files.ts"
import { pythonFloat } from "./python-json.ts"

const stateName = (type: string): string => `weight.quant_state.bitsandbytes__${type}`

/** How a matrix is packed in 4 bits. */
export interface FourBitPacking {
  readonly type: "nf4" | "fp4"
  readonly book: CodeBook
  readonly blockSize: number
  readonly doubleQuant: boolean
  /** What the values were stored as. */
  readonly dtype: ValueType
}

/** Packs a matrix that arrives in blocks of rows. */
export type EncodeFourBit = (
  backend: Backend,
  packing: FourBitPacking,
  shape: readonly [number, number],
  rows: AsyncIterable<Float32Array>,
  source?: { readonly source?: TensorRef },
) => Promise<Weight>

/** Reads and writes weights of a type; `encode` packs another matrix as one that was read. */
export function fourBitFiles(
  type: "nf4" | "fp4",
  book: CodeBook,
  options: { doubleQuant: boolean },
  encode: EncodeFourBit,
): WeightFiles {
  return {
    config: (model) =>
      quantisationConfig(model, {
        _load_in_4bit: true,
        load_in_4bit: true,
        bnb_4bit_quant_type: type,
        bnb_4bit_use_double_quant: options.doubleQuant,
      }),
    claims: (config) =>
      config.quant_method === "bitsandbytes" &&
      config.load_in_4bit === true &&
      (config.bnb_4bit_quant_type ?? "fp4") === type,
    names: (present) =>
      present.includes(stateName(type)) ? present.filter((name) => /^weight($|\.)/.test(name)) : undefined,
    read(backend, module, shape, tensors, { source } = {}) {
      const given: Given = { module, tensors }
      const { layout, data } = readState(given, type, book, shape)
      const { blockSize, dtype, nested } = layout
      const packing = { type, book, blockSize, doubleQuant: nested !== undefined, dtype }
      return storedFourBit(packedWeight(backend, layout, shape, data, source ? { source } : {}), (rows) =>
        encode(backend, packing, shape, rows),
      )
    },
  }
}

function readState(
  given: Given,
  type: string,
  book: CodeBook,
  shape: readonly [number, number],
): { layout: PackedLayout; data: PackedData } {
  const state = parseState(given, type)
  const at = `${given.module}.${stateName(type)}`
  const wanted = (key: string, fits: boolean, allowed: string): void => {
    if (!fits) throw stateError(at, `"${key}" is ${JSON.stringify(state[key])}; ${allowed}`)
  }
  const { blocksize, nested_blocksize: nestedSize, nested_offset: offset } = state
  wanted("quant_type", state.quant_type === type, `it must be "${type}"`)
  wanted("blocksize", blockSizes.includes(blocksize as number), `it must be one of ${blockSizes.join(", ")}`)
  wanted("dtype", String(state.dtype) in torchTypes, `it must be one of ${Object.keys(torchTypes).join(", ")}`)
  wanted("shape", JSON.stringify(state.shape) === JSON.stringify(shape), `config.json makes the layer [${shape}]`)
  checkMap(given, "weight.quant_map", book.values)
  const nested = nestedSize !== undefined || given.tensors.has("weight.nested_absmax")
  if (nested) {
    wanted("nested_blocksize", blockSizes.includes(nestedSize as number), `it must be one of ${blockSizes.join(", ")}`)
    wanted("nested_offset", Number.isFinite(offset), "it must be a finite number")
    checkMap(given, "weight.nested_quant_map", dynamicBook.values)
  }
  const layout: PackedLayout = {
    format: type,
    bits: 4,
    codeBook: book.values,
    blockSize: blocksize as number,
    dtype: torchTypes[state.dtype as keyof typeof torchTypes],
    ...(nested
      ? { nested: { codeBook: dynamicBook.values, blockSize: nestedSize as number, offset: offset as number } }
      : {}),
  }
  const { bytes, blocks, nestedBlocks } = packedSizes(layout, shape[0] * shape[1])
  const codes = bytesOf(given, "weight", bytes)
  if (!nested)
    return { layout, data: { codes, scales: finite(given, "weight.absmax", f32Of(given, "weight.absmax", blocks)) } }
  const nestedScales = finite(given, "weight.nested_absmax", f32Of(given, "weight.nested_absmax", nestedBlocks))
  const scales = bytesOf(given, "weight.absmax", blocks)
  if (given.tensors.get("weight.absmax")?.dtype !== "U8")
    throw stateError(`${given.module}.weight.absmax`, "scales that are quantised themselves must be U8")
  return { layout, data: { codes, scales, nestedScales } }
}

function parseState(given: Given, type: string): Readonly<Record<string, unknown>> {
  const name = stateName(type)
  const text = new TextDecoder().decode(bytesOf(given, name))
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed === "object" && parsed !== null) return parsed as Record<string, unknown>
  } catch {
    // Told below.
  }
  throw stateError(
    `${given.module}.${name}`,
    `${JSON.stringify(text.slice(0, 60))} is not the JSON of a quantisation state`,
  )
}

/** A 4-bit weight with what files hold of it, and how another is packed the same way. */
export function storedFourBit(weight: PackedWeight, encode: NonNullable<Weight["encode"]>): Weight {
  const { layout, shape } = weight.packed
  const { format, codeBook, nested } = layout
  const { bytes, blocks, nestedBlocks } = packedSizes(layout, shape[0] * shape[1])
  const state = new TextEncoder().encode(stateText(layout, shape))
  const stored: StoredWeight = new Map([
    ["weight", { dtype: "U8", shape: [bytes, 1], data: () => readPacked(weight.packed, "codes") }],
    [
      "weight.absmax",
      { dtype: nested ? "U8" : "F32", shape: [blocks], data: () => readPacked(weight.packed, "scales") },
    ],
    ["weight.quant_map", { dtype: "F32", shape: [16], data: codeBook }],
    [stateName(format), { dtype: "U8", shape: [state.length], data: state }],
    ...(nested
      ? ([
          [
            "weight.nested_absmax",
            { dtype: "F32", shape: [nestedBlocks], data: () => readPacked(weight.packed, "nestedScales") },
          ],
          ["weight.nested_quant_map", { dtype: "F32", shape: [256], data: nested.codeBook }],
        ] as const)
      : []),
  ])
  return { ...weight, stored, encode }
}

/** The quantisation state in Python's spacing. */
function stateText({ format, blockSize, dtype, nested }: PackedLayout, shape: readonly [number, number]): string {
  const name = Object.entries(torchTypes).find(([, type]) => type === dtype)?.[0]
  const members = [
    `"quant_type": "${format}"`,
    `"blocksize": ${blockSize}`,
    `"dtype": "${name}"`,
    `"shape": [${shape.join(", ")}]`,
  ]
  if (nested) {
    members.push(`"nested_blocksize": ${nested.blockSize}`, `"nested_dtype": "float32"`)
    members.push(`"nested_offset": ${pythonFloat(nested.offset)}`)
  }
  return `{${members.join(", ")}}`
}
