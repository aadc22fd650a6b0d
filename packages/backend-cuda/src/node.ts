/** The CUDA backend: NVIDIA GPUs through the TensorFlow library. Only for Node. Must not know kernels. */
import { type BackendOptions, createBackend, type CudaBackend as Kernels } from "./backend.ts"
import { type CudaInfo, openRuntime, type RuntimeOptions } from "./node-open.ts"

export { type FindOptions, type FoundTensorFlow, findTensorFlow, preparedForGpu, setupFolder } from "./node-find.ts"
export type { CudaDevice, CudaInfo, RuntimeOptions } from "./node-open.ts"

export interface CudaOptions extends RuntimeOptions, BackendOptions {}

export interface CudaBackend extends Omit<Kernels, "info"> {
  readonly info: CudaInfo
}

/**
 * A backend on an NVIDIA GPU; on TensorFlow's CPU only when `device: "cpu"` asks for that, which is for tests.
 * Throws E_OPTION; E_TENSORFLOW (none was found), E_TENSORFLOW_VERSION, E_TENSORFLOW_LOAD (cut short, or another processor's),
 * E_TENSORFLOW_ADDON; E_NO_DEVICE and E_CUDA_LIBRARIES where there is no GPU, naming what was looked for.
 */
export async function cuda(options: CudaOptions = {}): Promise<CudaBackend> {
  const { runtime, info } = await openRuntime(options)
  const { maxBufferBytes } = options
  return { ...createBackend(runtime, maxBufferBytes === undefined ? {} : { maxBufferBytes }), info }
}
