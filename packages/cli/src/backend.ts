/** A backend by its name, and the best there is. Must not know models or commands. */
import { type CpuBackend, cpu } from "@peftjs/backend-cpu/node"
import type { CudaBackend, CudaDevice } from "@peftjs/backend-cuda/node"
import type { WebgpuBackend } from "@peftjs/backend-webgpu/node"
import { type Backend, isPeftError, PeftError } from "@peftjs/core"

/** Every name `--backend` takes. */
export const backendNames = ["cpu", "webgpu", "cuda", "auto"] as const
export type BackendName = (typeof backendNames)[number]

export interface BackendFlags {
  readonly backend: BackendName
  /** Of CUDA: "gpu", "gpu:1", "cpu". */
  readonly device?: string
  /** Largest buffer, where it shall be smaller than the backend's own limit. */
  readonly maxBufferBytes?: number
  /** Of this process's CPU, for matrix products; all unless told otherwise. */
  readonly threads?: number
}

export type AnyBackend = CpuBackend | WebgpuBackend | CudaBackend

type Limit = Pick<BackendFlags, "maxBufferBytes" | "threads">
type Where = Limit & { readonly device?: CudaDevice }

/**
 * Makes the backend. `auto` says on stderr which it chose, and why.
 * Throws E_OPTION, and what its factory throws: E_BLAS, E_NO_DEVICE, E_TENSORFLOW and others of CUDA.
 */
export async function makeBackend({ backend, device, maxBufferBytes, threads }: BackendFlags): Promise<AnyBackend> {
  const limit: Limit = {
    ...(maxBufferBytes === undefined ? {} : { maxBufferBytes }),
    ...(threads === undefined ? {} : { threads }),
  }
  if (device !== undefined && backend !== "cuda")
    throw new PeftError("E_OPTION", `[cli] --device ${device} is an option of --backend cuda, not of ${backend}`)
  if (backend !== "auto")
    return makers[backend](device === undefined ? limit : { ...limit, device: device as CudaDevice })
  const { best, why } = await bestBackend(limit)
  process.stderr.write(`peft: backend ${best.name}: ${why}\n`)
  return best
}

const makers: Readonly<Record<Exclude<BackendName, "auto">, (where: Where) => Promise<AnyBackend>>> = {
  cpu: (limit) => cpu(limit),
  // Loaded when it is asked for: it starts a driver.
  webgpu: async (limit) => (await import("@peftjs/backend-webgpu/node")).webgpu(limit),
  cuda: async (where) => (await import("@peftjs/backend-cuda/node")).cuda(where),
}

/**
 * A GPU that computes right, else the CPU; and the reason. CUDA comes first where somebody fetched a TensorFlow with it; TensorFlow's CPU is never
 * taken. A driver that computes on the CPU itself is never faster than our kernels there.
 */
export async function bestBackend(limit: Limit = {}): Promise<{ best: AnyBackend; why: string }> {
  const problems: string[] = []
  for (const [name, open] of [
    ["cuda", tryCuda],
    ["webgpu", tryWebgpu],
  ] as const) {
    try {
      const best = await open(limit)
      if (best) return { best, why: kernelsOf(best) }
    } catch (error) {
      problems.push(`${name} is not used: ${problemOf(error)}`)
    }
  }
  return { best: await cpu(limit), why: problems.join("; ") }
}

/** Nothing where no TensorFlow with CUDA was fetched or named: the others are not looked for. */
async function tryCuda(limit: Limit): Promise<CudaBackend | undefined> {
  const { cuda, preparedForGpu } = await import("@peftjs/backend-cuda/node")
  if (!preparedForGpu()) return undefined
  const { selfTest } = await import("@peftjs/backend-webgpu/node")
  const backend = await cuda(limit)
  await selfTest(backend)
  return backend
}

async function tryWebgpu(limit: Limit): Promise<WebgpuBackend> {
  const { webgpu, selfTest } = await import("@peftjs/backend-webgpu/node")
  const backend = await webgpu(limit)
  try {
    if (backend.info.software) throw new Error(`${nameOf(backend)} computes on the CPU`)
    await selfTest(backend)
  } catch (error) {
    backend.destroy()
    throw error
  }
  return backend
}

/** A message without the marks of the code. */
export function problemOf(error: unknown): string {
  const { message } = error instanceof Error ? error : new Error(String(error))
  return isPeftError(error) ? message.replace(/^\[[\w-]+\] /, "").replace(` (${error.code})`, "") : message
}

/** What computes, for reports: "blas (Cooperlake, 2 threads, /usr/lib/libopenblas.so)", "webgpu (NVIDIA H200, shader-f16, subgroups)". */
export function kernelsOf(backend: AnyBackend): string {
  if (isWebgpu(backend)) {
    const { software, features } = backend.info
    // timestamp-query only measures.
    const useful = features.filter((feature) => feature !== "timestamp-query")
    return named(backend.name, [nameOf(backend), software && "on the CPU", ...useful])
  }
  if (isCuda(backend)) {
    const { device, gpu, tensorflow, cuda, runtime } = backend.info
    const where = device === "CPU" ? "on the CPU" : [device, gpu].filter(Boolean).join(" ")
    return named(backend.name, [where, `TensorFlow ${tensorflow}`, cuda && `CUDA ${cuda}`, runtime])
  }
  const { kernels, core, threads, library, relaxedSimd } = backend.info
  return named(kernels, [core, threads && `${threads} threads`, library, relaxedSimd && "relaxed SIMD"])
}

const isWebgpu = (backend: Backend): backend is WebgpuBackend => backend.name === "webgpu"
const isCuda = (backend: Backend): backend is CudaBackend => backend.name === "cuda"

function named(name: string, details: readonly unknown[]): string {
  const known = details.filter(Boolean)
  return known.length > 0 ? `${name} (${known.join(", ")})` : name
}

/** The device's name, as far as its driver tells. */
function nameOf({ info }: WebgpuBackend): string {
  return info.description || [info.vendor, info.architecture].filter(Boolean).join(" ") || "a GPU without a name"
}
