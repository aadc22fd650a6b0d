/** How a matmul reads its operands: one element, or four neighbours, in one load where they always lie in an aligned block. */
import type { DeviceBuffer, DType } from "@peftjs/core"
import type { Binding, ProgramParam } from "./gpu.ts"
import { aligned, type Operand } from "./matmul-product.ts"
import { type Loaded, loaders, storageOf } from "./words.ts"

/** An operand as a shader sees it. */
export interface OperandCode {
  readonly bindings: readonly Binding[]
  readonly buffers: readonly DeviceBuffer[]
  /** Beside those of the product. */
  readonly params: readonly ProgramParam[]
  readonly values: readonly number[]
  /** How it is loaded, or the functions that make its elements. */
  readonly source: (Loaded & { readonly dtype: DType }) | string
  /** For a program's key. */
  readonly key: string
}

export function operandCode(name: "a" | "b", operand: Operand): OperandCode {
  const { elements, buffer, transposed } = operand
  const turned = transposed ? "t" : "n"
  if (elements) return { ...elements, source: elements.helpers, key: `${turned}-${elements.key}` }
  const { dtype, length } = buffer
  const width = aligned(operand) && length >= 4 ? 4 : 1
  return {
    bindings: [{ name, type: storageOf(dtype, width) }],
    buffers: [buffer],
    params: [],
    values: [],
    source: { name, dtype, width },
    key: `${turned}-${dtype}x${width}`,
  }
}

/** For each operand NAME_1(i), its element i, and NAME_4(i), its elements i…i+3: aligned to four where it is loaded by fours. */
export function operandHelpers(operands: readonly OperandCode[]): string {
  const stored = operands.flatMap(({ source }) => (typeof source === "string" ? [] : [source]))
  const made = operands.flatMap(({ source }) => (typeof source === "string" ? [source] : []))
  const functions = stored.map(({ name, width }) => {
    const [one, four] =
      width === 4
        ? [`load_${name}(i / 4u)[i % 4u]`, `load_${name}(i / 4u)`]
        : [`load_${name}(i)`, `vec4f(${[0, 1, 2, 3].map((q) => `load_${name}(i + ${q}u)`)})`]
    return `fn ${name}_1(i: u32) -> f32 { return ${one}; }\nfn ${name}_4(i: u32) -> vec4f { return ${four}; }`
  })
  return [loaders(stored), ...functions, ...made].join("\n")
}
