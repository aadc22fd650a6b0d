/**
 * Loads TensorFlow into the process, once: a second one beside it would crash. Sets before what can only be set before.
 * Must not know kernels, nor where a library is looked for.
 */
import { isMainThread } from "node:worker_threads"
import { PeftError } from "@peftjs/core"
import { addonRuntime } from "./node-addon-runtime.ts"
import { bindCapi, type Capi } from "./node-capi.ts"
import { type Context, capiRuntime, openContext } from "./node-capi-runtime.ts"
import { elfProblem } from "./node-elf.ts"
import { type FoundTensorFlow, librariesOf } from "./node-find.ts"
import type { TfDevice, TfRuntime } from "./tf-runtime.ts"

export interface LoadOptions {
  readonly device: "gpu" | "cpu"
  /** Which GPU of those that are visible. */
  readonly index: number
  readonly memoryGrowth: boolean
  /** Products of f32 in TensorFloat-32 (10 bits of mantissa). */
  readonly tf32: boolean
}

const oldest = [2, 15] as const

interface Loaded {
  folder?: string
  capi?: Capi
  readonly contexts: Map<string, Context>
}

/** In the global registry: a second copy of this module shares it. */
const registry = globalThis as unknown as Record<symbol, Loaded | undefined>
const key = Symbol.for("peftjs.cuda.tensorflow")
registry[key] ??= { contexts: new Map() }
const loaded: Loaded = registry[key]

/** Through the C API. Throws E_TENSORFLOW_LOAD, E_TENSORFLOW_VERSION, and E_OPTION for another TensorFlow than the one that is loaded. */
export async function loadCapi(found: FoundTensorFlow, options: LoadOptions): Promise<CapiDevices> {
  prepare(found, options)
  loaded.capi ??= await bind(found)
  const capi = loaded.capi
  requireVersion(capi.version(), found)
  const { contexts } = loaded
  const name = options.device === "gpu" ? `gpu, growth ${options.memoryGrowth}` : "cpu"
  const context = contexts.get(name) ?? openContext(capi, { gpu: options.device === "gpu", ...options })
  contexts.set(name, context)
  return { devices: context.devices, on: (device) => capiRuntime(capi, context, device) }
}

export interface CapiDevices {
  readonly devices: readonly TfDevice[]
  on(device: TfDevice): TfRuntime
}

/** Through the addon, which takes the one GPU that is visible. Throws E_TENSORFLOW_ADDON, and as loadCapi. */
export function loadAddon(found: FoundTensorFlow, options: LoadOptions): TfRuntime {
  if (found.addon === undefined)
    throw new PeftError(
      "E_TENSORFLOW_ADDON",
      `[backend-cuda] there is no addon for the TensorFlow in ${found.folder}: run "peft setup cuda --addon", which needs g++, or use the runtime "capi"`,
    )
  // The addon leaves no other choice; a variable that is set already lists what it may choose from.
  const visible = process.env.CUDA_VISIBLE_DEVICES?.split(",")
  if (loaded.folder === undefined)
    process.env.CUDA_VISIBLE_DEVICES =
      options.device === "cpu" ? "-1" : visible ? (visible[options.index] ?? "") : String(options.index)
  prepare(found, options)
  let runtime: TfRuntime
  try {
    runtime = addonRuntime(found.addon)
  } catch (cause) {
    throw new PeftError(
      "E_TENSORFLOW_ADDON",
      `[backend-cuda] the addon ${found.addon} cannot be loaded by Node ${process.version}: ${firstLine(cause)}; run "peft setup cuda --addon" again, or use the runtime "capi"`,
      { cause },
    )
  }
  requireVersion(runtime.version, found)
  return runtime
}

function prepare(found: FoundTensorFlow, { tf32, memoryGrowth, device }: LoadOptions): void {
  if (loaded.folder !== undefined && loaded.folder !== found.folder)
    throw new PeftError(
      "E_OPTION",
      `[backend-cuda] the TensorFlow in ${found.folder} was asked for, but this process has loaded the one in ${loaded.folder}; a process takes one`,
    )
  if (loaded.folder !== undefined) return
  if (process.platform !== "linux")
    throw new PeftError(
      "E_NO_DEVICE",
      `[backend-cuda] TensorFlow with CUDA exists for Linux alone, not for ${process.platform}; on Windows use WSL 2, or the WebGPU backend`,
    )
  for (const path of librariesOf(found)) {
    const problem = elfProblem(path)
    if (problem !== undefined) throw notLoaded(path, problem)
  }
  // A worker's environment is a copy that the library does not see: there the program must set these before it starts.
  if (isMainThread) {
    process.env.TF_CPP_MIN_LOG_LEVEL ??= "3"
    if (device === "gpu") {
      process.env.NVIDIA_TF32_OVERRIDE ??= tf32 ? "1" : "0"
      process.env.TF_FORCE_GPU_ALLOW_GROWTH ??= String(memoryGrowth)
      // Sums into equal rows in one order: equal calls give equal bits.
      process.env.TF_USE_DETERMINISTIC_SEGMENT_REDUCTIONS ??= "1"
    }
  }
  loaded.folder = found.folder
}

async function bind(found: FoundTensorFlow): Promise<Capi> {
  const koffi = await import("koffi").then(
    (module) => module.default,
    (cause: unknown) => {
      throw new PeftError(
        "E_TENSORFLOW_LOAD",
        '[backend-cuda] TensorFlow is called through the npm package koffi, which cannot be loaded; npm install koffi, or use the runtime "addon"',
        { cause },
      )
    },
  )
  const [framework, library] = librariesOf(found) as [string, string]
  let path = framework
  try {
    koffi.load(framework)
    path = library
    return bindCapi(koffi, koffi.load(library))
  } catch (cause) {
    throw notLoaded(path, firstLine(cause), cause)
  }
}

function requireVersion(version: string, { folder }: FoundTensorFlow): void {
  const [major = 0, minor = 0] = version.split(".").map(Number)
  if (major === oldest[0] && minor >= oldest[1]) return
  throw new PeftError(
    "E_TENSORFLOW_VERSION",
    `[backend-cuda] ${folder} is TensorFlow ${version}; ${oldest.join(".")} or a later 2 is needed (2.18.1 is what this was tested with)`,
  )
}

function notLoaded(path: string, problem: string, cause?: unknown): PeftError {
  return new PeftError(
    "E_TENSORFLOW_LOAD",
    `[backend-cuda] ${path} cannot be loaded: ${problem}; run "peft setup cuda" again, or install TensorFlow anew`,
    cause === undefined ? {} : { cause },
  )
}

function firstLine(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).split("\n")[0] as string
}
