/** Where the device comes from: an adapter is asked for, and of it everything it offers. The only file that knows. */
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
  "maxComputeWorkgroupsPerDimension",
] as const

/** A device with all the features we use and the limits the adapter offers. Throws E_NO_DEVICE. */
export async function openDevice(gpu: GPU | undefined): Promise<{ device: GPUDevice; info: DeviceInfo }> {
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" })
  if (!adapter)
    throw new PeftError(
      "E_NO_DEVICE",
      `[backend-webgpu] ${gpu ? "no GPU adapter" : "no WebGPU here"}; use the CPU backend`,
    )
  const requiredFeatures = wantedFeatures.filter((f) => adapter.features.has(f))
  const requiredLimits = Object.fromEntries(wantedLimits.map((name) => [name, adapter.limits[name]]))
  const device = await adapter.requestDevice({ requiredFeatures, requiredLimits })
  const { vendor, architecture, description } = adapter.info
  const software =
    adapter.info.isFallbackAdapter || /swiftshader|llvmpipe|lavapipe/i.test(`${architecture} ${description}`)
  const limits = Object.fromEntries(wantedLimits.map((name) => [name, device.limits[name] as number]))
  return { device, info: { vendor, architecture, description, software, features: requiredFeatures, limits } }
}
