/** A backend by its name, and the best there is. Must not know models or commands. */
import { type CpuBackend, cpu } from "@peftjs/backend-cpu/node"
import type { WebgpuBackend } from "@peftjs/backend-webgpu/node"
import { isPeftError } from "@peftjs/core"

/** Every name `--backend` takes. */
export const backendNames = ["cpu", "webgpu", "auto"] as const
export type BackendName = (typeof backendNames)[number]

export interface BackendFlags {
  readonly backend: BackendName
  /** Largest buffer, where it shall be smaller than the backend's own limit. */
  readonly maxBufferBytes?: number
}

export type AnyBackend = CpuBackend | WebgpuBackend

type Limit = Pick<BackendFlags, "maxBufferBytes">

/**
 * Makes the backend. `auto` says on stderr which it chose, and why.
 * Throws what its factory throws: E_BLAS, E_NO_DEVICE.
 */
export async function makeBackend({ backend, maxBufferBytes }: BackendFlags): Promise<AnyBackend> {
  const limit = maxBufferBytes === undefined ? {} : { maxBufferBytes }
  if (backend !== "auto") return makers[backend](limit)
  const { best, why } = await bestBackend(limit)
  process.stderr.write(`peft: backend ${best.name}: ${why}\n`)
  return best
}

const makers: Readonly<Record<Exclude<BackendName, "auto">, (limit: Limit) => Promise<AnyBackend>>> = {
  cpu: (limit) => cpu(limit),
  // Loaded when it is asked for: it starts a driver.
  webgpu: async (limit) => (await import("@peftjs/backend-webgpu/node")).webgpu(limit),
}

/** A GPU that computes right, else the CPU; and the reason. A driver that computes on the CPU itself is never faster than our kernels there. */
export async function bestBackend(limit: Limit = {}): Promise<{ best: AnyBackend; why: string }> {
  const gpu = await tryWebgpu(limit)
  if (gpu.backend) return { best: gpu.backend, why: kernelsOf(gpu.backend) }
  return { best: await cpu(limit), why: `webgpu is not used: ${gpu.problem}` }
}

async function tryWebgpu(limit: Limit): Promise<{ backend: WebgpuBackend } | { backend?: never; problem: string }> {
  try {
    const { webgpu, selfTest } = await import("@peftjs/backend-webgpu/node")
    const backend = await webgpu(limit)
    try {
      if (backend.info.software) throw new Error(`${nameOf(backend)} computes on the CPU`)
      await selfTest(backend)
    } catch (error) {
      backend.destroy()
      throw error
    }
    return { backend }
  } catch (error) {
    return { problem: problemOf(error) }
  }
}

/** A message without the marks of the code. */
export function problemOf(error: unknown): string {
  const { message } = error instanceof Error ? error : new Error(String(error))
  return isPeftError(error) ? message.replace(/^\[[\w-]+\] /, "").replace(` (${error.code})`, "") : message
}

/** What computes, for reports: "blas (Cooperlake, 2 threads, /usr/lib/libopenblas.so)", "webgpu (NVIDIA H200, shader-f16, subgroups)". */
export function kernelsOf(backend: AnyBackend): string {
  if (isGpu(backend)) {
    const { software, features } = backend.info
    // timestamp-query only measures.
    const useful = features.filter((feature) => feature !== "timestamp-query")
    return named(backend.name, [nameOf(backend), software && "on the CPU", ...useful])
  }
  const { kernels, core, threads, library, relaxedSimd } = backend.info
  return named(kernels, [core, threads && `${threads} threads`, library, relaxedSimd && "relaxed SIMD"])
}

const isGpu = (backend: AnyBackend): backend is WebgpuBackend => backend.name === "webgpu"

function named(name: string, details: readonly unknown[]): string {
  const known = details.filter(Boolean)
  return known.length > 0 ? `${name} (${known.join(", ")})` : name
}

/** The device's name, as far as its driver tells. */
function nameOf({ info }: WebgpuBackend): string {
  return info.description || [info.vendor, info.architecture].filter(Boolean).join(" ") || "a GPU without a name"
}
