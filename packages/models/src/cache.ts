/** Keys and values of earlier tokens, so that generation computes each token once. Knows no model: layers are names. */
import type { Cache, Tensor } from "@peftjs/core"
import { concat, free, hold } from "@peftjs/core"

/** An empty cache. Its memory is its own until `free`. */
export function makeCache(): Cache {
  const layers = new Map<string, readonly [Tensor, Tensor]>()
  return {
    get length() {
      const [first] = layers.values()
      return first?.[0].shape[1] ?? 0
    },
    update(layer, k, v) {
      const before = layers.get(layer)
      const all = before ? ([concat([before[0], k], 1), concat([before[1], v], 1)] as const) : ([k, v] as const)
      layers.set(layer, [hold(all[0]), hold(all[1])])
      before?.forEach(free)
      return all
    },
    free() {
      for (const pair of layers.values()) pair.forEach(free)
      layers.clear()
    },
  }
}
