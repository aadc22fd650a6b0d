/** From options to a runtime on one device: finds TensorFlow, loads it, takes the GPU that was asked for, or says why there is none. Knows no kernels. */
import { PeftError } from "@peftjs/core"
import { type FoundTensorFlow, findTensorFlow } from "./node-find.ts"
import { gpuNames, noGpu } from "./node-gpu.ts"
import { type LoadOptions, loadAddon, loadCapi } from "./node-load.ts"
import type { TfRuntime } from "./tf-runtime.ts"

export type CudaDevice = "gpu" | "cpu" | `gpu:${number}`

export interface RuntimeOptions {
  /** "gpu" (default) is the first that is visible, "gpu:1" the second. "cpu" is TensorFlow's CPU, for tests. */
  readonly device?: CudaDevice
  /** TensorFlow's C API through koffi (default, or PEFT_TENSORFLOW_RUNTIME), or the addon of tfjs-node-gpu. */
  readonly runtime?: "capi" | "addon"
  /** A folder with TensorFlow, or a Python that has it; default: PEFT_TENSORFLOW, what `peft setup cuda` fetched, python3's. */
  readonly library?: string
  /** Products of f32 with 10 bits of mantissa, several times faster (default false). The first call in a process decides. */
  readonly tf32?: boolean
  /** Takes the GPU's memory as it is needed (default), not all at once. The first call in a process decides. */
  readonly memoryGrowth?: boolean
}

/** What runs, for reports. */
export interface CudaInfo {
  /** "TensorFlow C API" or "tfjs-node-gpu addon". */
  readonly runtime: string
  readonly tensorflow: string
  /** Folder of the library, and how it was found. */
  readonly library: string
  readonly by: string
  /** What TensorFlow was built with; absent without CUDA. */
  readonly cuda?: string
  readonly cudnn?: string
  /** Where kernels really run: "CPU", "GPU:0". */
  readonly device: string
  /** The GPU's name, as far as the driver tells. */
  readonly gpu?: string
  /** Bytes that TensorFlow may use on the GPU. */
  readonly memory?: number
}

export interface OpenRuntime {
  readonly runtime: TfRuntime
  readonly info: CudaInfo
}

/**
 * Opens TensorFlow. Throws E_OPTION; E_TENSORFLOW (none found), E_TENSORFLOW_VERSION, E_TENSORFLOW_LOAD, E_TENSORFLOW_ADDON;
 * E_NO_DEVICE and E_CUDA_LIBRARIES when a GPU is asked for and there is none.
 */
export async function openRuntime(options: RuntimeOptions = {}): Promise<OpenRuntime> {
  const { device, index } = parseDevice(options.device ?? "gpu")
  const way = parseRuntime(options.runtime ?? process.env.PEFT_TENSORFLOW_RUNTIME ?? "capi")
  const found = findTensorFlow({ device, ...(options.library === undefined ? {} : { library: options.library }) })
  // A build without CUDA need not be loaded to know that it has no GPU.
  if (device === "gpu" && found.cuda === undefined) throw noGpu(found, index, 0, process.env)
  const load = { device, index, memoryGrowth: options.memoryGrowth ?? true, tf32: options.tf32 ?? false }
  const env = { ...process.env }
  const runtime = way === "addon" ? onAddon(found, load, env) : await onCapi(found, load, env)
  return { runtime, info: describe(found, runtime) }
}

async function onCapi(found: FoundTensorFlow, load: LoadOptions, env: NodeJS.ProcessEnv): Promise<TfRuntime> {
  const { devices, on } = await loadCapi(found, load)
  const kind = load.device === "gpu" ? "GPU" : "CPU"
  const able = devices.filter((device) => device.kind === kind)
  const device = able[load.index]
  if (device === undefined) throw noGpu(found, load.index, able.length, env)
  return on(device)
}

function onAddon(found: FoundTensorFlow, load: LoadOptions, env: NodeJS.ProcessEnv): TfRuntime {
  const runtime = loadAddon(found, load)
  if (runtime.device.kind === (load.device === "gpu" ? "GPU" : "CPU")) return runtime
  if (load.device === "gpu") throw noGpu(found, load.index, 0, env)
  throw new PeftError(
    "E_OPTION",
    '[backend-cuda] the addon has taken a GPU already and keeps it; for { device: "cpu" } use another process or the runtime "capi"',
  )
}

function describe(found: FoundTensorFlow, { name, version, device }: TfRuntime): CudaInfo {
  const [, place = device.kind] = /device:([CG]PU:\d+)$/.exec(device.name) ?? []
  const gpu = device.kind === "GPU" ? gpuNames()[Number(place.slice(4))] : undefined
  return {
    runtime: name,
    tensorflow: version,
    library: found.folder,
    by: found.by,
    ...(found.cuda ? { cuda: found.cuda.cuda, cudnn: found.cuda.cudnn } : {}),
    device: device.kind === "CPU" ? "CPU" : place,
    ...(gpu === undefined ? {} : { gpu }),
    ...(device.memory === undefined ? {} : { memory: device.memory }),
  }
}

function parseDevice(text: string): { device: "gpu" | "cpu"; index: number } {
  const match = /^(cpu|gpu)(?::(\d+))?$/.exec(text)
  if (match && !(match[1] === "cpu" && match[2] !== undefined))
    return { device: match[1] as "gpu" | "cpu", index: Number(match[2] ?? 0) }
  throw new PeftError(
    "E_OPTION",
    `[backend-cuda] the device is ${JSON.stringify(text)}; "gpu", "gpu:1" or "cpu" is one`,
  )
}

function parseRuntime(text: string): "capi" | "addon" {
  if (text === "capi" || text === "addon") return text
  throw new PeftError("E_OPTION", `[backend-cuda] the runtime is ${JSON.stringify(text)}; "capi" and "addon" exist`)
}
