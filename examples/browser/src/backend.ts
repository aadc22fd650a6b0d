/** Which backend computes: WebGPU where there is one that computes rightly and in hardware, else the CPU. */
import { cpu } from "@peftjs/backend-cpu"
import { selfTest, type WebgpuBackend, webgpu } from "@peftjs/backend-webgpu"
import type { Backend } from "@peftjs/core"
import type { Device } from "./messages.ts"

export interface Chosen {
  readonly backend: Backend
  /** In words. */
  readonly device: string
  /** Why it is not another. */
  readonly note?: string
  /** Gives the device back. */
  close(): void
}

/** Throws E_NO_DEVICE or E_SELF_TEST where WebGPU is asked for and there is none that works. */
export async function chooseBackend(wanted: Device): Promise<Chosen> {
  if (wanted === "cpu") return onCpu()
  if (wanted === "webgpu") return onGpu(await opened())
  try {
    const backend = await opened()
    if (!backend.info.software) return onGpu(backend)
    backend.destroy()
    return { ...(await onCpu()), note: "This browser's WebGPU runs in software, which is slower than the CPU backend." }
  } catch (error) {
    return { ...(await onCpu()), note: `WebGPU is not used: ${(error as Error).message}` }
  }
}

async function onCpu(): Promise<Chosen> {
  const backend = await cpu()
  const kernels = backend.info.kernels === "wasm" ? "WebAssembly SIMD" : "plain JavaScript"
  return { backend, device: `CPU (${kernels})`, close: () => {} }
}

async function opened(): Promise<WebgpuBackend> {
  const backend = await webgpu()
  try {
    await selfTest(backend)
    return backend
  } catch (error) {
    backend.destroy()
    throw error
  }
}

function onGpu(backend: WebgpuBackend): Chosen {
  const { vendor, architecture, description } = backend.info
  const name = description || [vendor, architecture].filter(Boolean).join(" ") || "GPU"
  return { backend, device: `WebGPU (${name})`, close: () => backend.destroy() }
}
