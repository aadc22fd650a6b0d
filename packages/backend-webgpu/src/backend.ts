/** Puts the kernels together. Knows which there are, not how any of them works. */
import { type Backend, type DType, PeftError } from "@peftjs/core"
import type { DeviceInfo } from "./device.ts"
import type { Runtime } from "./runtime.ts"

export interface WebgpuBackend extends Backend {
  readonly info: DeviceInfo
  /** Buffers made and not freed. */
  live(): number
}

const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32", "u8"]

export function createBackend(runtime: Runtime, info: DeviceInfo): WebgpuBackend {
  return {
    name: "webgpu",
    specVersion: 1,
    info,
    supports: { dtypes, maxBufferBytes: runtime.maxBufferBytes },
    live: runtime.live,
    upload(data, dtype) {
      if (dtypes.includes(dtype)) return runtime.upload(data, dtype)
      throw new PeftError("E_UNSUPPORTED", `[backend-webgpu] cannot hold ${dtype}; it holds ${dtypes.join(", ")}`)
    },
    free: runtime.free,
    read: runtime.read,
    flush: runtime.flush,
    kernels: {} as never,
  }
}
