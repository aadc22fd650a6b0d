/**
 * The CUDA backend for the conformance kit. On TensorFlow's CPU, where its library is found and where it may use only what a GPU could run, unless
 * PEFT_CUDA_DEVICE says "gpu"; through the runtime that PEFT_TENSORFLOW_RUNTIME names. Absent where there is no TensorFlow; pages do not know it.
 */
import type { BackendEntry } from "@peftjs/conformance"
import { isPeftError } from "@peftjs/core"
import type { CudaBackend } from "../src/backend.ts"
import type { CudaDevice, OpenRuntime } from "../src/node-open.ts"

async function open(): Promise<OpenRuntime> {
  const { openRuntime } = await import("../src/node-open.ts")
  return openRuntime({ device: (process.env.PEFT_CUDA_DEVICE ?? "cpu") as CudaDevice })
}

/** A backend of its own. */
export async function makeCuda(options: { maxBufferBytes?: number } = {}): Promise<CudaBackend> {
  const { createBackend } = await import("../src/backend.ts")
  const { onlyGpuOps } = await import("./only-gpu-ops.ts")
  const { runtime } = await open()
  return createBackend(runtime.device.kind === "GPU" ? runtime : onlyGpuOps(runtime), options)
}

const inNode = typeof window === "undefined"

const absent: string | undefined = inNode
  ? await makeCuda().then(
      () => undefined,
      (error: unknown) => {
        if (isPeftError(error) && ["E_TENSORFLOW", "E_NO_DEVICE"].includes(error.code)) return error.message
        throw error
      },
    )
  : undefined

export const backends: Readonly<Partial<Record<"cuda", BackendEntry>>> = inNode
  ? { cuda: absent === undefined ? makeCuda : { absent } }
  : {}

/** Where it computes, as TensorFlow says: "NVIDIA H200", "TensorFlow's CPU". */
export const devices: Readonly<Record<string, () => Promise<string>>> =
  inNode && absent === undefined
    ? {
        async cuda() {
          const { device, gpu } = (await open()).info
          return gpu ?? (device === "CPU" ? "TensorFlow's CPU" : device)
        },
      }
    : {}
