/**
 * The WebGPU backend in Node, through Dawn (the npm package `webgpu`, an optional peer).
 * An open device does not keep Node alive, and a program may end with or without `destroy()` and `process.exit()`: all ran to the right exit code.
 * Dawn's object however crashes the process when it is collected, so one is kept for as long as the process lives.
 */
import { isPeftError, PeftError } from "@peftjs/core"
import type { WebgpuBackend } from "./backend.ts"
import { type DeviceInfo, listAdapters } from "./device.ts"
import { onDevice, type WebgpuOptions } from "./index.ts"
import { explainVulkan, requireLoader, useVulkan } from "./node-vulkan.ts"

export type { WebgpuBackend } from "./backend.ts"
export type { DeviceInfo } from "./device.ts"
export type { RuntimeStats } from "./runtime.ts"
export { selfTest } from "./self-test.ts"

export interface NodeWebgpuOptions extends WebgpuOptions {
  /**
   * Linux: folder with the manifest of a Vulkan driver (*icd*.json) and maybe a loader (libvulkan.so.1); default: PEFT_VULKAN, else what the
   * system has. The first call in a process decides.
   */
  readonly vulkan?: string
}

export interface Probe {
  readonly adapters: readonly DeviceInfo[]
  /** What is missing when there is no adapter, and what to do. */
  readonly missing?: string
}

/** A backend on this machine's GPU. Throws E_NO_DEVICE: no npm package, no driver, no adapter; the message says which and what to do. */
export async function webgpu(options: NodeWebgpuOptions = {}): Promise<WebgpuBackend> {
  const gpu = await dawn(options)
  if (!(await gpu.requestAdapter())) throw noDevice(explain())
  return onDevice(gpu, options)
}

/** What webgpu() could use, for reports. Never throws for want of a device. */
export async function probe(options: NodeWebgpuOptions = {}): Promise<Probe> {
  try {
    const adapters = await listAdapters(await dawn(options))
    return adapters.length > 0 ? { adapters } : { adapters, missing: explain() }
  } catch (error) {
    if (!isPeftError(error) || error.code !== "E_NO_DEVICE") throw error
    return { adapters: [], missing: error.message.replace("[backend-webgpu] ", "").replace(" (E_NO_DEVICE)", "") }
  }
}

/** In the global registry, not in a variable: a second copy of this module shares it, and nothing can collect it. */
const keep = Symbol.for("peftjs.webgpu.dawn")

async function dawn(options: NodeWebgpuOptions): Promise<GPU> {
  const registry = globalThis as unknown as Record<symbol, GPU | undefined>
  const known = registry[keep]
  if (known) return known
  const folder = options.vulkan ?? process.env.PEFT_VULKAN
  if (process.platform === "linux") {
    if (folder) useVulkan(folder)
    requireLoader()
  }
  const { create } = await loadDawn()
  registry[keep] ??= create([])
  return registry[keep]
}

async function loadDawn(): Promise<typeof import("webgpu")> {
  try {
    return await import("webgpu")
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code === "ERR_MODULE_NOT_FOUND" && message.includes("'webgpu'"))
      throw noDevice('the npm package "webgpu" is not installed: npm install webgpu', cause)
    throw noDevice(
      `the npm package "webgpu" has no binary that runs here (${process.platform}-${process.arch}): ${message}`,
      cause,
    )
  }
}

function explain(): string {
  if (process.platform === "linux") return explainVulkan()
  return "no GPU adapter: update the GPU's driver, or use the CPU backend"
}

function noDevice(what: string, cause?: unknown): PeftError {
  return new PeftError("E_NO_DEVICE", `[backend-webgpu] ${what}`, cause === undefined ? {} : { cause })
}
