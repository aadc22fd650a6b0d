/**
 * One file of the hub into the cache. What has arrived stays when the connection breaks or the process ends, and the next attempt,
 * of this process or a later one, goes on from there. A blob appears under its name only when it is whole. Must not know what is in it.
 */
import { createHash } from "node:crypto"
import { createReadStream } from "node:fs"
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises"
import { join } from "node:path"
import { setTimeout as pause } from "node:timers/promises"
import { PeftError } from "@peftjs/core"
import { writing } from "./cache.ts"
import type { HubClient, RemoteFile } from "./client.ts"

export interface DownloadOptions {
  readonly blobs: string
  readonly client: HubClient
  readonly retryMs: number
  /** Told of bytes on disk so far. */
  readonly progress: (bytes: number) => void
}

/** Attempts in a row that bring nothing before it is given up. */
const fruitless = 4

/** Fetches a file to its blob, unless it is there. Throws E_HUB_NETWORK, E_HUB_ACCESS, E_HUB_NOT_FOUND, E_WRITE. */
export async function download(file: RemoteFile, options: DownloadOptions): Promise<void> {
  const { blobs, client, retryMs, progress } = options
  const blob = join(blobs, file.etag)
  if ((await sizeOf(blob)) !== undefined) return
  await writing(blobs, () => mkdir(blobs, { recursive: true }))
  const partial = await claim(blobs, file.etag)
  for (let failures = 0, before = (await sizeOf(partial)) ?? 0; ; ) {
    try {
      await writing(partial, () => append(file, partial, progress))
      break
    } catch (cause) {
      if (cause instanceof PeftError && cause.code === "E_WRITE") throw cause
      const error = client.errorOf(cause)
      const now = (await sizeOf(partial)) ?? 0
      failures = now > before ? 0 : failures + 1
      before = now
      if (error.code !== "E_HUB_NETWORK" || failures === fruitless) throw error
      await pause(retryMs * 2 ** failures)
    }
  }
  if (!(await isWhole(file, partial))) {
    await rm(partial, { force: true })
    throw new PeftError(
      "E_HUB_NETWORK",
      `[cli] what arrived is not what was announced (${file.size} bytes, ${file.etag}); it was thrown away, try again`,
    )
  }
  await writing(blob, () => rename(partial, blob))
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.size
}

/** The file to write to: what a process that is no more has left, else a new one. Renaming lets one taker win. */
async function claim(blobs: string, etag: string): Promise<string> {
  const named = (pid: number): string => `${etag}.${pid}.incomplete`
  const own = join(blobs, named(process.pid))
  if ((await sizeOf(own)) !== undefined) return own
  for (const name of await readdir(blobs)) {
    const pid = Number(/\.(\d+)\.incomplete$/.exec(name)?.[1])
    if (name !== named(pid) || isRunning(pid)) continue
    const taken = await rename(join(blobs, name), own).then(
      () => true,
      () => false,
    )
    if (taken) return own
  }
  return own
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM"
  }
}

async function append(file: RemoteFile, path: string, progress: (bytes: number) => void): Promise<void> {
  const handle = await open(path, "a")
  try {
    let { size: at } = await handle.stat()
    if (at > file.size) {
      await handle.truncate(0)
      at = 0
    }
    progress(at)
    if (at === file.size) return
    for await (const piece of await file.open(at)) {
      at += piece.length
      // A server that ignores where to begin sends too much.
      if (at > file.size) {
        await handle.truncate(0)
        throw new Error(`more than ${file.size} bytes arrive`)
      }
      await handle.appendFile(piece)
      progress(at)
    }
    if (at < file.size) throw new Error(`ended after ${at} of ${file.size} bytes`)
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** An etag of 64 digits is the content's SHA-256. */
async function isWhole({ etag, size }: RemoteFile, path: string): Promise<boolean> {
  if ((await sizeOf(path)) !== size) return false
  if (!/^[0-9a-f]{64}$/.test(etag)) return true
  const hash = createHash("sha256")
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer)
  return hash.digest("hex") === etag
}
