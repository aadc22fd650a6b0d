/** The WebGPU backend in a browser; `@peftjs/backend-webgpu/node` is the same in Node. */
import { createBackend, type WebgpuBackend } from "./backend.ts"
import { openDevice } from "./device.ts"
import { createRuntime } from "./runtime.ts"

export type { WebgpuBackend } from "./backend.ts"
export type { DeviceInfo } from "./device.ts"

export interface WebgpuOptions {
  /** Largest buffer in bytes; the device's limit unless told otherwise. */
  readonly maxBufferBytes?: number
}

/** A backend on the browser's GPU. Throws E_NO_DEVICE. */
export async function webgpu(options: WebgpuOptions = {}): Promise<WebgpuBackend> {
  return onDevice(globalThis.navigator?.gpu, options)
}

export async function onDevice(gpu: GPU | undefined, options: WebgpuOptions): Promise<WebgpuBackend> {
  const { device, info } = await openDevice(gpu)
  const { maxStorageBufferBindingSize = 0, maxBufferSize = 0 } = info.limits
  const limit = Math.min(maxStorageBufferBindingSize, maxBufferSize, options.maxBufferBytes ?? Number.POSITIVE_INFINITY)
  return createBackend(createRuntime(device, info, limit), info)
}
