/**
 * Where the device comes from: an adapter is asked for, and of it everything it offers that kernels can use. The only file that knows adapters.
 */
/// <reference types="@webgpu/types" />
import { PeftError } from "@peftjs/core"

/** What a device is and can do, for reports. */
export interface DeviceInfo {
  readonly vendor: string
  readonly architecture: string
  readonly description: string
  /** A driver that computes on the CPU. */
  readonly software: boolean
  readonly features: readonly string[]
  readonly limits: Readonly<Record<string, number>>
}

const wantedFeatures = ["shader-f16", "subgroups", "timestamp-query"] as const
const wantedLimits = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
  "minUniformBufferOffsetAlignment",
] as const

/** A device with all the features we use and the limits the adapter offers. Throws E_NO_DEVICE. */
export async function openDevice(gpu: GPU | undefined): Promise<{ device: GPUDevice; info: DeviceInfo }> {
  if (!gpu)
    throw new PeftError(
      "E_NO_DEVICE",
      "[backend-webgpu] this program has no WebGPU: a page needs https or localhost and a browser of 2026, in Node import @peftjs/backend-webgpu/node; or use the CPU backend",
    )
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" })
  if (!adapter)
    throw new PeftError(
      "E_NO_DEVICE",
      "[backend-webgpu] WebGPU is there and finds no adapter: update the GPU's driver, or use the CPU backend",
    )
  const info = infoOf(adapter)
  const requiredLimits = Object.fromEntries(wantedLimits.map((name) => [name, adapter.limits[name]]))
  try {
    const device = await adapter.requestDevice({
      requiredFeatures: info.features as GPUFeatureName[],
      requiredLimits,
    })
    return { device, info }
  } catch (cause) {
    const what = `${info.description || info.vendor} gives no device: ${(cause as Error).message}`
    throw new PeftError("E_NO_DEVICE", `[backend-webgpu] ${what}; update its driver, or use the CPU backend`, { cause })
  }
}

/** The adapters that can be asked for; a browser shows one or two of a machine's, whatever it has. */
export async function listAdapters(gpu: GPU | undefined): Promise<DeviceInfo[]> {
  const found = new Map<string, DeviceInfo>()
  for (const options of [
    { powerPreference: "high-performance" },
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ] as const) {
    const adapter = await gpu?.requestAdapter(options)
    if (!adapter) continue
    const info = infoOf(adapter)
    const key = JSON.stringify(info)
    if (!found.has(key)) found.set(key, info)
  }
  return [...found.values()]
}

function infoOf({ info, features, limits }: GPUAdapter): DeviceInfo {
  const { vendor, architecture, description } = info
  return {
    vendor,
    architecture,
    description,
    software: info.isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|warp/i.test(`${architecture} ${description}`),
    features: wantedFeatures.filter((name) => features.has(name)),
    limits: Object.fromEntries(wantedLimits.map((name) => [name, limits[name] as number])),
  }
}
