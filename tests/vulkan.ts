/**
 * Vitest's global setup: where Linux has no Vulkan driver of its own, WebGPU in Node runs on the software driver that comes with
 * tests/chromium.ts. Workers start afterwards and inherit the environment.
 */
import { existsSync, readdirSync } from "node:fs"
import { homedir } from "node:os"
import { chromium } from "./chromium.ts"

/** Folders where a Vulkan loader looks for drivers. */
const folders = [
  "/etc/vulkan/icd.d",
  "/usr/share/vulkan/icd.d",
  "/usr/local/share/vulkan/icd.d",
  `${homedir()}/.local/share/vulkan/icd.d`,
]

export default async function setup(): Promise<void> {
  const { PEFT_VULKAN, VK_DRIVER_FILES, VK_ICD_FILENAMES } = process.env
  if (PEFT_VULKAN ?? VK_DRIVER_FILES ?? VK_ICD_FILENAMES) return
  if (process.platform !== "linux" || process.arch !== "x64") return
  if (folders.some((folder) => existsSync(folder) && readdirSync(folder).length > 0)) return
  process.env.PEFT_VULKAN = (await chromium()).vulkan
}
