/** What a training step asks of its device, where the backend counts that. Must not know models or methods. */
import type { AnyBackend } from "./backend.ts"

/** Ops run, bytes copied to the device and from it, since the backend was made; and handles it holds now. */
export interface DeviceCounts {
  readonly ops: number
  readonly bytes_up: number
  readonly bytes_down: number
  readonly handles: number
}

/** Undefined where the backend does not count these. */
export function countsOf(backend: AnyBackend): DeviceCounts | undefined {
  const counted = "stats" in backend ? backend.stats() : undefined
  if (counted === undefined || !("ops" in counted)) return undefined
  const { ops, bytesUp, bytesDown, handles } = counted
  return { ops, bytes_up: bytesUp, bytes_down: bytesDown, handles }
}

/** What was done between two counts, and the handles that were held at the second. */
export function between(before: DeviceCounts, after: DeviceCounts): DeviceCounts {
  return {
    ops: after.ops - before.ops,
    bytes_up: after.bytes_up - before.bytes_up,
    bytes_down: after.bytes_down - before.bytes_down,
    handles: after.handles,
  }
}
