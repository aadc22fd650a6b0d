/**
 * Finds a TensorFlow on this machine: named by option or variable, fetched by `peft setup cuda`, or installed for the python3 on PATH.
 * Looks at files and asks Python where a package lies; loads nothing.
 */
import { spawnSync } from "node:child_process"
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join, resolve } from "node:path"
import { PeftError } from "@peftjs/core"

/** A TensorFlow that is there; whether it can be loaded is another matter. */
export interface FoundTensorFlow {
  /** The folder with libtensorflow_cc.so.2. */
  readonly folder: string
  /** How it was found: "PEFT_TENSORFLOW", "peft setup cuda", "python3". */
  readonly by: string
  /** CUDA and cuDNN that it was built for; undefined for a build without CUDA. */
  readonly cuda?: { readonly cuda: string; readonly cudnn: string; readonly capabilities: readonly string[] }
  /** The addon that `peft setup cuda --addon` built for it, where it is. */
  readonly addon?: string
}

export const libraryName = "libtensorflow_cc.so.2"
const frameworkName = "libtensorflow_framework.so.2"

/** The folder that `peft setup cuda` fills: one folder in it for each TensorFlow. */
export function setupFolder(env: NodeJS.ProcessEnv = process.env): string {
  return join(resolve(env.PEFTJS_CACHE ?? join(homedir(), ".cache", "peftjs")), "tensorflow")
}

export interface FindOptions {
  /** A folder (tensorflow/, its parent, or what `peft setup cuda` made), or a Python that has TensorFlow. */
  readonly library?: string
  readonly device: "gpu" | "cpu"
  readonly env?: NodeJS.ProcessEnv
}

/**
 * What is to be loaded. One that is named is taken or fails; otherwise the first that fits the device: for a GPU one that was built with CUDA, if
 * there is any. Throws E_TENSORFLOW when there is none, E_TENSORFLOW_VERSION when it is older than its C library.
 */
export function findTensorFlow({ library, device, env = process.env }: FindOptions): FoundTensorFlow {
  const named = library ?? env.PEFT_TENSORFLOW
  if (named) return fromName(named, library === undefined ? "PEFT_TENSORFLOW" : "the option library")
  const found = candidates(env)
  const best = found.find(({ cuda }) => (cuda !== undefined) === (device === "gpu")) ?? found[0]
  if (best) return best
  throw new PeftError(
    "E_TENSORFLOW",
    `[backend-cuda] no TensorFlow was found: looked in ${setupFolder(env)} and asked python3; run "peft setup cuda", or install it (pip install 'tensorflow[and-cuda]==2.18.1'), or name its folder or its Python in PEFT_TENSORFLOW`,
  )
}

/** Whether somebody fetched or named a TensorFlow with CUDA. Asks no Python unless PEFT_TENSORFLOW is one. */
export function preparedForGpu(env: NodeJS.ProcessEnv = process.env): boolean {
  if (env.PEFT_TENSORFLOW) return fromName(env.PEFT_TENSORFLOW, "PEFT_TENSORFLOW").cuda !== undefined
  return fetched(env).some(({ cuda }) => cuda !== undefined)
}

function candidates(env: NodeJS.ProcessEnv): FoundTensorFlow[] {
  const prepared = fetched(env)
  if (prepared.length > 0) return prepared
  const folder = askPython("python3")
  return folder !== undefined && existsSync(join(folder, libraryName)) ? [describe(folder, "python3")] : []
}

function fetched(env: NodeJS.ProcessEnv): FoundTensorFlow[] {
  return entries(setupFolder(env))
    .filter((folder) => existsSync(join(folder, "READY")))
    .map((folder) => join(folder, "tensorflow"))
    .filter((folder) => existsSync(join(folder, libraryName)))
    .map((folder) => describe(folder, "peft setup cuda"))
}

function fromName(name: string, by: string): FoundTensorFlow {
  const path = resolve(name)
  const folder = !existsSync(path) || statSync(path).isFile() ? fromPython(name, by) : folderIn(path)
  if (folder !== undefined && existsSync(join(folder, libraryName))) return describe(folder, by)
  if (folder !== undefined && existsSync(join(folder, "python", "_pywrap_tensorflow_internal.so")))
    throw new PeftError(
      "E_TENSORFLOW_VERSION",
      `[backend-cuda] ${by} is ${name}, a TensorFlow without ${libraryName}: it is older than 2.12; 2.15 or later is needed (2.18.1 is what this was tested with)`,
    )
  throw new PeftError(
    "E_TENSORFLOW",
    `[backend-cuda] ${by} is ${name}, where there is no ${libraryName}; name a folder that holds it, one that holds tensorflow/, or a Python that has TensorFlow`,
  )
}

function folderIn(path: string): string {
  const inside = join(path, "tensorflow")
  return existsSync(join(path, libraryName)) || !existsSync(inside) ? path : inside
}

function fromPython(name: string, by: string): string {
  const folder = askPython(name)
  if (folder !== undefined) return folder
  throw new PeftError(
    "E_TENSORFLOW",
    `[backend-cuda] ${by} is ${name}, which is no folder and no Python that has TensorFlow; name one of these`,
  )
}

/** Where that Python would import TensorFlow from, without importing it. */
function askPython(python: string): string | undefined {
  const program =
    "import importlib.util as u; s = u.find_spec('tensorflow'); print(s.submodule_search_locations[0] if s else '')"
  const { status, stdout } = spawnSync(python, ["-c", program], { encoding: "utf8", timeout: 20_000 })
  return status === 0 && stdout.trim() !== "" ? stdout.trim() : undefined
}

function describe(folder: string, by: string): FoundTensorFlow {
  const cuda = buildOf(folder)
  const addon = join(dirname(folder), "addon", "tfjs_binding.node")
  return { folder, by, ...(cuda ? { cuda } : {}), ...(existsSync(addon) ? { addon } : {}) }
}

/** The wheel says of itself what it was built with, in a Python file. */
function buildOf(folder: string): FoundTensorFlow["cuda"] {
  const path = join(folder, "python", "platform", "build_info.py")
  const text = existsSync(path) ? readFileSync(path, "utf8") : ""
  const value = (key: string): string => new RegExp(`'${key}',\\s*'([^']*)'`).exec(text)?.[1] ?? ""
  const cuda = value("cuda_version")
  if (cuda === "") return undefined
  const list = /'cuda_compute_capabilities',\s*\[([^\]]*)\]/.exec(text)?.[1] ?? ""
  return { cuda, cudnn: value("cudnn_version"), capabilities: list.match(/(?:sm|compute)_\d+/g) ?? [] }
}

function entries(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : []
}

/** In the order in which they are loaded. */
export function librariesOf({ folder }: FoundTensorFlow): string[] {
  return [join(folder, frameworkName), join(folder, libraryName)]
}
