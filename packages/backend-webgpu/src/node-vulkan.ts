/**
 * Vulkan on Linux: a driver from a folder, for machines where none is installed (SwiftShader out of a Chromium, an unpacked lavapipe), and what is
 * missing when there is no adapter. Knows nothing of WebGPU.
 */
import { existsSync, readdirSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { isMainThread } from "node:worker_threads"
import { PeftError } from "@peftjs/core"

const otherwise = "or name a folder with a driver's manifest and libvulkan.so.1 in PEFT_VULKAN, or use the CPU backend"

const workers =
  "no GPU adapter in this worker: PEFT_VULKAN works from the main thread, which must open a backend or probe first"
const unprepared = (): boolean => !isMainThread && process.env.PEFT_VULKAN !== undefined

/**
 * Makes the drivers whose manifests (*icd*.json) lie in the folder, and its loader (libvulkan.so.1) if it has one, those that Dawn will find.
 * To be called before Dawn looks for adapters. A worker's environment is a copy, which drivers do not see: there it does nothing, and the main
 * thread must have called it, or have been started with VK_DRIVER_FILES and LD_LIBRARY_PATH set.
 * Throws E_NO_DEVICE when the folder has no manifest.
 */
export function useVulkan(folder: string): void {
  if (!isMainThread) return
  const manifests = manifestsIn(folder)
  if (manifests.length === 0)
    throw new PeftError(
      "E_NO_DEVICE",
      `[backend-webgpu] ${folder} has no Vulkan driver: a manifest like vk_swiftshader_icd.json is looked for; name another folder, or unset PEFT_VULKAN to use what is installed`,
    )
  process.env.VK_DRIVER_FILES = manifests.join(":")
  const loader = join(folder, "libvulkan.so.1")
  if (existsSync(loader)) load(loader)
}

/** Throws E_NO_DEVICE when there is no Vulkan loader. */
export function requireLoader(): void {
  if (load("libvulkan.so.1")) return
  if (unprepared()) throw new PeftError("E_NO_DEVICE", `[backend-webgpu] ${workers}`)
  throw new PeftError(
    "E_NO_DEVICE",
    `[backend-webgpu] the Vulkan loader (libvulkan.so.1) is missing: install it (Debian: libvulkan1) with your GPU's driver (NVIDIA's, or mesa-vulkan-drivers), ${otherwise}`,
  )
}

/** Why the loader found no adapter. */
export function explainVulkan(): string {
  if (unprepared()) return workers
  const named = process.env.VK_DRIVER_FILES ?? process.env.VK_ICD_FILENAMES
  const folders = ["/usr/share", "/usr/local/share", "/etc", join(homedir(), ".local/share")]
  const drivers = named ? named.split(":") : folders.flatMap((folder) => manifestsIn(join(folder, "vulkan/icd.d")))
  if (drivers.length > 0)
    return `no GPU adapter: the Vulkan drivers ${drivers.join(", ")} offer none; is the GPU visible to this user (in a container: is it passed through)? Update the driver, ${otherwise}`
  return `no GPU adapter: no Vulkan driver is installed; install your GPU's (NVIDIA's, or Debian's mesa-vulkan-drivers, which also computes without a GPU), ${otherwise}`
}

function manifestsIn(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((name) => /\.json$/.test(name) && /icd/.test(name))
    .map((name) => join(folder, name))
}

/** True when the library is in the process now. */
function load(library: string): boolean {
  try {
    // NODELETE | GLOBAL | NOW: Node reports that it is no addon, but the library stays and Dawn finds it by its name.
    process.dlopen({ exports: {} } as NodeModule, library, 0x1102)
    return true
  } catch (error) {
    return !/cannot open shared object|No such file/i.test((error as Error).message)
  }
}
