/** What every decoder makes of a batch's mask and positions before its first layer. Knows no weights. */
import type { Backend, ModelInput, Tensor } from "@peftjs/core"
import { tensor } from "@peftjs/core"

/**
 * Positions of the tokens: those given, else 0, 1, 2 … after the cache's, as one row that stands for all.
 * The second value is the number of rows, 1 or batch.
 */
export function positionsOf({ batch, tokens, positions, cache }: ModelInput): { positions: Int32Array; rows: number } {
  if (positions) return { positions, rows: batch }
  const before = cache?.length ?? 0
  return { positions: Int32Array.from({ length: tokens }, (_, i) => before + i), rows: 1 }
}

/** i32 [batch, keys], 0 where a key is padding; undefined when none is, which is faster. */
export function validKeys(backend: Backend, { batch, mask }: ModelInput): Tensor | undefined {
  return mask?.includes(0) ? tensor(backend, mask, [batch, mask.length / batch], "i32") : undefined
}
