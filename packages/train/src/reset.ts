/** What a restart leaves of an optimizer's averages: pruning on the host, once per cycle. Must not know restarts or optimizers. */
import { keyOf, setValues, uniforms } from "@peftjs/core"
import type { SlotTensors } from "./optimizer.ts"
import type { Restarts } from "./restarts.ts"

/** What a random choice depends on. */
export interface ResetKey {
  readonly seed: number
  readonly cycle: number
  readonly name: string
}

/** Makes entries of one parameter's averages zero, in place. Throws what reading throws. */
export async function prune(
  slots: SlotTensors,
  { reset, ratio, together }: Restarts["optimizer"],
  { seed, cycle, name }: ResetKey,
): Promise<void> {
  const found: { readonly slot: SlotTensors[string]; readonly values: Float32Array; readonly kept: Uint8Array }[] = []
  for (const [i, slot] of Object.values(slots).entries()) {
    const values = (await slot.data()) as Float32Array
    const key = keyOf(seed, "restart", cycle, name, together ? 0 : i)
    found.push({ slot, values, kept: reset === "random" ? byChance(key, values, ratio) : bySize(values, ratio) })
  }
  for (const { slot, values, kept } of found) {
    const stays = (i: number): boolean => (together ? found.every((other) => other.kept[i] === 1) : kept[i] === 1)
    const left = values.map((x, i) => (stays(i) ? x : 0))
    setValues(slot, left)
  }
}

function byChance(key: ReturnType<typeof keyOf>, { length }: Float32Array, ratio: number): Uint8Array {
  return Uint8Array.from(uniforms(key, length, 0, 1), (u) => (u < ratio ? 0 : 1))
}

/** 1 where |x| is above the quantile of all |x|. */
function bySize(values: Float32Array, ratio: number): Uint8Array {
  const sizes = values.map(Math.abs)
  const limit = quantile(sizes, ratio)
  return Uint8Array.from(sizes, (size) => (size > limit ? 1 : 0))
}

/** The q-quantile with linear interpolation, as torch.quantile: q at 0 is the least, at 1 the largest. */
export function quantile(values: Float32Array, q: number): number {
  const sorted = values.toSorted()
  const place = q * (sorted.length - 1)
  const [low, high] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]] as [number, number]
  return low + (high - low) * (place - Math.floor(place))
}
