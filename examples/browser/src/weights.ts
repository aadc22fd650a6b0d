/** How the base is stored while it computes: as its files have it, or packed into fewer bits as it is read. */
import { bytesPerElement, isTensor, type Model, type WeightFormat } from "@peftjs/core"
import { fp4, int8, nf4 } from "@peftjs/qlora"
import type { Stored } from "./messages.ts"

/** What a model folder may be packed as already. */
export const knownFormats: readonly WeightFormat[] = [nf4(), fp4(), int8()]

/** The format to pack linear layers into; undefined where they stay as they are. */
export function formatOf(stored: Stored): WeightFormat | undefined {
  const formats: Readonly<Record<Stored, WeightFormat | undefined>> = {
    "as-stored": undefined,
    nf4: nf4(),
    "nf4-double": nf4({ doubleQuant: true }),
    int8: int8(),
  }
  return formats[stored]
}

/** Bytes that the backend holds of a base, and how many numbers they stand for. */
export function sizeOf({ params }: Model): { readonly bytes: number; readonly parameters: number } {
  const sizes = [...params.values()].map((value) => ({
    bytes: isTensor(value) ? value.size * bytesPerElement[value.dtype] : value.bytes,
    parameters: value.shape.reduce((a: number, b) => a * b, 1),
  }))
  const sum = (of: "bytes" | "parameters"): number => sizes.reduce((total, size) => total + size[of], 0)
  return { bytes: sum("bytes"), parameters: sum("parameters") }
}
