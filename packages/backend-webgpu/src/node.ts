/** The WebGPU backend in Node, through Dawn (the npm package `webgpu`). */
import { join } from "node:path"
import type { WebgpuBackend } from "./backend.ts"
import { onDevice, type WebgpuOptions } from "./index.ts"

export type { WebgpuBackend } from "./backend.ts"
export type { DeviceInfo } from "./device.ts"

export interface NodeWebgpuOptions extends WebgpuOptions {
  /** Folder with a Vulkan loader (libvulkan.so.1) and a driver's manifest; default: PEFT_VULKAN, else what the system has. */
  readonly vulkan?: string
}

const keep = Symbol.for("peftjs.webgpu.dawn")

/** A backend on this machine's GPU. Throws E_NO_DEVICE. */
export async function webgpu(options: NodeWebgpuOptions = {}): Promise<WebgpuBackend> {
  const vulkan = options.vulkan ?? process.env.PEFT_VULKAN
  if (vulkan !== undefined) useVulkan(vulkan)
  const { create, globals } = await import("webgpu")
  Object.assign(globalThis, globals)
  const registry = globalThis as unknown as Record<symbol, GPU | undefined>
  registry[keep] ??= create([])
  return onDevice(registry[keep], options)
}

function useVulkan(folder: string): void {
  process.env.VK_DRIVER_FILES = join(folder, "vk_swiftshader_icd.json")
  try {
    // NODELETE | GLOBAL | NOW: Node reports that it is no addon, but the library stays and Dawn finds it by its name.
    process.dlopen({ exports: {} } as NodeModule, join(folder, "libvulkan.so.1"), 0x1102)
  } catch {}
}
