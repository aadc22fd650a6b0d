/** Why TensorFlow offers no GPU, from what can be seen without one: the build, the variable, CUDA's libraries, the driver. Loads no TensorFlow. */
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { PeftError } from "@peftjs/core"
import type { FoundTensorFlow } from "./node-find.ts"

const otherwise =
  'a GPU is never replaced by the CPU in silence: choose { device: "cpu" } (--device cpu) for tests, or another backend'

/** The error for a GPU that was asked for and is not there. `index` is the one of the visible GPUs that was wanted, `count` how many there are. */
export function noGpu(found: FoundTensorFlow, index: number, count: number, env: NodeJS.ProcessEnv): PeftError {
  if (count > 0)
    return noDevice(`GPU ${index} was asked for; TensorFlow has ${count}, counted from 0${visibleNote(env)}`)
  if (found.cuda === undefined)
    return noDevice(
      `the TensorFlow in ${found.folder} (found by ${found.by}) was built without CUDA: run "peft setup cuda --device gpu", or name another in PEFT_TENSORFLOW`,
    )
  const visible = env.CUDA_VISIBLE_DEVICES
  if (visible !== undefined && /^(\s*|-1|NoDevFiles)$/.test(visible))
    return noDevice(`CUDA_VISIBLE_DEVICES is "${visible}", which hides every GPU: unset it, or name one`)
  const missing = missingLibraries(found)
  const driver = driverProblem()
  if (missing.length > 0)
    return new PeftError(
      "E_CUDA_LIBRARIES",
      `[backend-cuda] TensorFlow needs ${missing.join(", ")} of CUDA ${found.cuda.cuda} and cuDNN ${found.cuda.cudnn}, which are neither in ${nvidiaFolder(found)} nor in a folder of the system's loader; run "peft setup cuda --device gpu", or pip install 'tensorflow[and-cuda]'${driver ? `; and ${driver}` : ""}`,
    )
  if (driver) return noDevice(driver)
  return noDevice(
    `TensorFlow (CUDA ${found.cuda.cuda}, for ${found.cuda.capabilities.join(" ")}) finds no GPU although a driver is there${visibleNote(env)}: is the driver new enough for CUDA 12, is the GPU passed through to this container? TF_CPP_MIN_LOG_LEVEL=0 shows what TensorFlow says`,
  )
}

/** Names of the GPUs of NVIDIA's driver on Linux, for reports. */
export function gpuNames(): string[] {
  const folder = "/proc/driver/nvidia/gpus"
  if (!existsSync(folder)) return []
  return readdirSync(folder).flatMap((name) => {
    const file = join(folder, name, "information")
    const model = existsSync(file) ? /^Model:\s*(.+)$/m.exec(readFileSync(file, "utf8"))?.[1] : undefined
    return model ? [model.trim()] : []
  })
}

function visibleNote({ CUDA_VISIBLE_DEVICES: visible }: NodeJS.ProcessEnv): string {
  return visible === undefined ? "" : `, and CUDA_VISIBLE_DEVICES is "${visible}"`
}

function noDevice(what: string): PeftError {
  return new PeftError("E_NO_DEVICE", `[backend-cuda] ${what}; ${otherwise}`)
}

/** What TensorFlow opens at run time; all of them, or it takes no GPU. */
function wanted({ cuda }: FoundTensorFlow): string[] {
  const [major = "12"] = (cuda?.cuda ?? "").split(".")
  const names = ["libcudart", "libcublas", "libcublasLt", "libcusparse"].map((name) => `${name}.so.${major}`)
  return [...names, "libcufft.so.11", "libcusolver.so.11", `libcudnn.so.${cuda?.cudnn.split(".")[0] || 9}`]
}

function missingLibraries(found: FoundTensorFlow): string[] {
  const packages = nvidiaFolder(found)
  const beside = existsSync(packages) ? readdirSync(packages).map((name) => join(packages, name, "lib")) : []
  return wanted(found).filter((name) => !beside.some((lib) => existsSync(join(lib, name))) && !systemHas(name))
}

/** pip's nvidia-* packages lie beside tensorflow/, where its run path looks. */
function nvidiaFolder({ folder }: FoundTensorFlow): string {
  return join(dirname(folder), "nvidia")
}

function driverProblem(): string | undefined {
  if (!existsSync("/dev/nvidia0") && !existsSync("/dev/nvidiactl") && !existsSync("/dev/dxg"))
    return "there is no NVIDIA GPU: neither /dev/nvidia0 nor /dev/dxg exists (in a container: was it started with --gpus all?)"
  if (!systemHas("libcuda.so.1"))
    return "the driver's library libcuda.so.1 cannot be loaded: install NVIDIA's driver (in a container: with the NVIDIA container toolkit)"
  return undefined
}

/** True when the system's loader finds the library; it is in the process then, which does no harm. */
function systemHas(library: string): boolean {
  try {
    process.dlopen({ exports: {} } as NodeModule, library, 1)
    return true
  } catch (error) {
    return !/cannot open shared object|No such file/i.test((error as Error).message)
  }
}
