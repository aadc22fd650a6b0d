/** How GGUF files store matrices: those of ggml's types that are supported, by their names. Plain data; knows no file and no model. */
import type { Dtype } from "@peftjs/safetensors"

/** The packed ones that are read as they are. */
export type PackedKind = "Q4_0" | "Q4_1" | "Q8_0"

/** Values of a block, and bytes it takes. */
export interface BlockSize {
  readonly values: number
  readonly bytes: number
}

export const packedKinds: Readonly<Record<PackedKind, BlockSize>> = {
  Q4_0: { values: 32, bytes: 18 },
  Q4_1: { values: 32, bytes: 20 },
  Q8_0: { values: 32, bytes: 34 },
}

/** Single values. */
export const denseKinds: Readonly<Record<"F32" | "F16" | "BF16", { readonly dtype: Dtype; readonly bytes: number }>> = {
  F32: { dtype: "F32", bytes: 4 },
  F16: { dtype: "F16", bytes: 2 },
  BF16: { dtype: "BF16", bytes: 2 },
}

export type Kind = PackedKind | keyof typeof denseKinds

export const kinds: readonly Kind[] = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"]

export const isPacked = (kind: Kind): kind is PackedKind => kind in packedKinds
