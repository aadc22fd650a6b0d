/** How a matmul reads its operands: one element, or four neighbours, in one load where they always lie in an aligned block. */
import type { DType } from "@peftjs/core"
import type { Binding } from "./gpu.ts"
import { aligned, type Operand } from "./matmul-product.ts"
import { type Loaded, loaders, storageOf } from "./words.ts"

/** An operand as a shader sees it. */
export interface OperandCode {
  readonly binding: Binding
  readonly loaded: Loaded & { readonly dtype: DType }
  /** For a program's key. */
  readonly key: string
}

export function operandCode(name: "a" | "b", operand: Operand): OperandCode {
  const { dtype, length } = operand.buffer
  const width = aligned(operand) && length >= 4 ? 4 : 1
  return {
    binding: { name, type: storageOf(dtype, width) },
    loaded: { name, dtype, width },
    key: `${operand.transposed ? "t" : "n"}-${dtype}x${width}`,
  }
}

/** For each operand NAME_1(i), its element i, and NAME_4(i), its elements i…i+3: aligned to four where it is loaded by fours. */
export function operandHelpers(operands: readonly OperandCode[]): string {
  const functions = operands.map(({ loaded: { name, width } }) => {
    const [one, four] =
      width === 4
        ? [`load_${name}(i / 4u)[i % 4u]`, `load_${name}(i / 4u)`]
        : [`load_${name}(i)`, `vec4f(${[0, 1, 2, 3].map((q) => `load_${name}(i + ${q}u)`)})`]
    return `fn ${name}_1(i: u32) -> f32 { return ${one}; }\nfn ${name}_4(i: u32) -> vec4f { return ${four}; }`
  })
  return [loaders(operands.map((x) => x.loaded)), ...functions].join("\n")
}
