/** The WebGPU backend in a browser; `@peftjs/backend-webgpu/node` is the same in Node. */
import { createBackend, type WebgpuBackend } from "./backend.ts"
import { type DeviceInfo, listAdapters, openDevice } from "./device.ts"
import { createRuntime } from "./runtime.ts"

export type { WebgpuBackend } from "./backend.ts"
export type { DeviceInfo } from "./device.ts"
export type { RuntimeStats } from "./runtime.ts"
export { selfTest } from "./self-test.ts"

export interface WebgpuOptions {
  /** Largest buffer in bytes; the device's limit unless told otherwise. */
  readonly maxBufferBytes?: number
}

/** A backend on the browser's GPU. Throws E_NO_DEVICE. */
export async function webgpu(options: WebgpuOptions = {}): Promise<WebgpuBackend> {
  return onDevice(globalThis.navigator?.gpu, options)
}

/** What webgpu() could use, for reports. */
export async function probe(): Promise<{ readonly adapters: readonly DeviceInfo[] }> {
  return { adapters: await listAdapters(globalThis.navigator?.gpu) }
}

export async function onDevice(gpu: GPU | undefined, options: WebgpuOptions): Promise<WebgpuBackend> {
  const { device, info } = await openDevice(gpu)
  const { maxStorageBufferBindingSize = 0, maxBufferSize = 0 } = info.limits
  // Memory comes in multiples of 16 bytes.
  const largest = Math.floor(Math.min(maxStorageBufferBindingSize, maxBufferSize) / 16) * 16
  return createBackend(
    createRuntime(device, info, Math.min(largest, options.maxBufferBytes ?? Number.POSITIVE_INFINITY)),
    info,
  )
}
