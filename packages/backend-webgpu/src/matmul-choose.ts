/** Which way a product is computed: from the device's kind and the product's shape. Knows the variants' strengths, not their code. */
import type { Gpu } from "./gpu.ts"
import type { Product } from "./matmul-product.ts"
import { tiledSide } from "./matmul-tiled.ts"

export type MatmulVariant = "register" | "large-register" | "tiled" | "split" | "vector"

export interface Choice {
  readonly variant: MatmulVariant
  /** Of an invocation's outputs, where the variant is made of registers alone. */
  readonly rows: number
  readonly columns: number
  readonly parts: number
}

/** Workgroups below which a GPU is not full. */
const full = 128
/** Steps of k that pay for writing a partial sum and reading it again. */
const leastPart = 64
const mostParts = 32

export function choose(
  { features, maxBufferBytes }: Pick<Gpu, "features" | "maxBufferBytes">,
  product: Product,
  forced?: MatmulVariant,
): Choice {
  const { outer, inner, m, n, k, a, b, c, repeat, accumulate } = product
  const stack = outer * inner
  const outputs = m * n * stack
  const small = { rows: m === 1 ? 1 : 4, columns: 4, parts: 1 }
  const large = { rows: 8, columns: 8, parts: 1, variant: "large-register" } as const
  const rowByRows = m === 1 && !a.transposed && b.transposed
  // Parts are added up into a dense C by a second program.
  const dense = inner === 1 && repeat === 1 && !accumulate && c.at === 0 && c.stride === n && c.outer === m * n
  const groups = Math.ceil((Math.ceil(m / small.rows) * Math.ceil(n / 4) * stack) / 64)
  const room = Math.floor(maxBufferBytes / 4 / outputs)
  const parts = dense ? Math.min(Math.floor(k / leastPart), Math.ceil(full / groups), mostParts, room) : 1
  if (forced === "split" && dense && k >= 8 && room >= 2)
    return { ...small, variant: "split", parts: Math.max(parts, 2) }
  if (forced === "vector" && rowByRows) return { ...small, variant: "vector" }
  if (forced === "tiled") return { ...small, variant: "tiled" }
  if (forced === "large-register") return large
  if (forced !== undefined) return { ...small, variant: "register" }
  if (features.software) {
    // Loads are what a CPU that plays a GPU is slow at, and larger tiles load less; barriers cost much there, and more parallel work gains
    // nothing. A larger tile takes longer to compile, which small products do not earn back.
    const worthwhile = m >= 64 && n >= 64 && outputs * k >= 2 ** 22
    return worthwhile ? large : { ...small, variant: "register" }
  }
  if (rowByRows) return { ...small, variant: "vector" }
  const tiles = Math.ceil(m / tiledSide) * Math.ceil(n / tiledSide) * stack
  if (tiles < full / 2 && parts >= 2) return { ...small, variant: "split", parts }
  // A tile that sticks out far computes mostly nothing.
  const filled = outputs >= (tiles * tiledSide ** 2) / 2
  return { ...small, variant: filled ? "tiled" : "register" }
}
