/** Any buffer's elements as f32, for kernels that are not worth a loop per element type. */
import type { DeviceBuffer } from "@peftjs/core"
import { dataOf } from "./buffers.ts"
import { widen } from "./half.ts"

/** The buffer's own array when it holds f32 already (do not write to it), else a new one. */
export function asF32(buffer: DeviceBuffer): Float32Array {
  const data = dataOf(buffer)
  if (buffer.dtype === "f32") return data as Float32Array
  const out = new Float32Array(buffer.length)
  widen(data, buffer.dtype, 0, buffer.length, out)
  return out
}
