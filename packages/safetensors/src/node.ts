/** Files and folders on disk, for Node. The only file of this package that imports from Node. */
import { randomBytes } from "node:crypto"
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises"
import { basename, dirname, join, sep } from "node:path"
import { type ByteSource, checkPath, type FileSink, type FileSource } from "./byte-source.ts"
import { fail, SafetensorsError, type SafetensorsErrorCode } from "./error.ts"

/** `read` of Node takes at most 2^31 - 1 bytes at a time. */
const largestRead = 1 << 30

/**
 * A file on disk. It is opened anew for every read, so there is nothing to close; a file that was replaced meanwhile is
 * noticed and refused, since its header no longer counts.
 *
 * @throws E_FILE_NOT_FOUND, E_NOT_A_FILE, E_READ
 */
export async function nodeFile(path: string): Promise<ByteSource> {
  const first = await attempt("E_READ", `cannot open ${path}`, stat(path))
  if (!first.isFile()) fail("E_NOT_A_FILE", `${path} is not a file`)
  const read = async (start: number, end: number, into?: Uint8Array): Promise<Uint8Array> => {
    const n = end - start
    const data = into && into.byteLength >= n ? into.subarray(0, n) : new Uint8Array(n)
    const handle = await attempt("E_READ", `cannot open ${path}`, open(path, "r"))
    try {
      const now = await handle.stat()
      if (now.size !== first.size || now.mtimeMs !== first.mtimeMs || now.ino !== first.ino)
        fail("E_READ", `${path} was changed while it was being read; open it again`)
      return await attempt("E_READ", `cannot read ${path}`, readFully(handle, start, data))
    } finally {
      await handle.close()
    }
  }
  return { name: path, size: first.size, read }
}

async function readFully(handle: FileHandle, start: number, data: Uint8Array): Promise<Uint8Array> {
  for (let done = 0; done < data.length; ) {
    const { bytesRead } = await handle.read(data, done, Math.min(data.length - done, largestRead), start + done)
    if (bytesRead === 0) return data.subarray(0, done)
    done += bytesRead
  }
  return data
}

/**
 * A folder on disk, for reading and writing. Links are followed, as in a model cache. A write goes to a temporary file
 * beside its target, is flushed to the disk and renamed; it makes the folders it needs.
 *
 * @throws (its functions) E_FILE_NOT_FOUND, E_NOT_A_DIRECTORY, E_NOT_A_FILE, E_READ, E_WRITE, E_PATH
 */
export function nodeFiles(dir: string): FileSource & FileSink & { list(): Promise<string[]> } {
  const locate = (path: string): string => join(dir, checkPath(path))
  return {
    name: dir,
    open: async (path) => {
      const full = locate(path)
      await checkFolder(dir)
      return nodeFile(full)
    },
    has: async (path) => {
      const found = await stat(locate(path)).catch(() => undefined)
      return found?.isFile() ?? false
    },
    list: async () => {
      await checkFolder(dir)
      const found = await attempt(
        "E_READ",
        `cannot list ${dir}`,
        readdir(dir, { recursive: true, withFileTypes: true }),
      )
      return found
        .filter((entry) => !entry.isDirectory())
        .map((entry) => join(entry.parentPath, entry.name).slice(join(dir, sep).length).replaceAll(sep, "/"))
        .sort()
    },
    write: async (path, chunks) => writeFileAtomically(locate(path), chunks),
  }
}

async function writeFileAtomically(
  path: string,
  chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): Promise<void> {
  const folder = dirname(path)
  const what = `cannot write ${path}`
  await attempt("E_WRITE", what, mkdir(folder, { recursive: true }))
  const temporary = join(folder, `.${basename(path)}.${randomBytes(6).toString("hex")}.tmp`)
  const handle = await attempt("E_WRITE", what, open(temporary, "wx"))
  try {
    try {
      for await (const chunk of chunks) await attempt("E_WRITE", what, writeFully(handle, chunk))
      await attempt("E_WRITE", what, handle.sync())
    } finally {
      await attempt("E_WRITE", what, handle.close())
    }
    await attempt("E_WRITE", what, rename(temporary, path))
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await syncFolder(folder)
}

async function writeFully(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let done = 0; done < chunk.length; ) {
    const { bytesWritten } = await handle.write(chunk, done, Math.min(chunk.length - done, largestRead))
    done += bytesWritten
  }
}

/** Makes the rename itself survive a power cut. Windows cannot do this to a folder; the file's content is safe without. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => undefined)
  await handle?.sync().catch(() => undefined)
  await handle?.close()
}

async function checkFolder(dir: string): Promise<void> {
  const found = await attempt("E_READ", `cannot open the folder ${dir}`, stat(dir))
  if (!found.isDirectory()) fail("E_NOT_A_DIRECTORY", `${dir} is a file; give the folder it lies in`)
}

/** Gives a file system error our code; the original is its cause. A full disk is an E_WRITE. */
async function attempt<T>(code: SafetensorsErrorCode, what: string, promise: Promise<T>): Promise<T> {
  try {
    return await promise
  } catch (error) {
    if (error instanceof SafetensorsError) throw error
    const reason = (error as NodeJS.ErrnoException).code
    const hint: Record<string, string> = {
      ENOSPC: "the disk is full",
      EACCES: "permission denied",
      EROFS: "read-only disk",
    }
    if (reason === "ENOENT" && code === "E_READ") fail("E_FILE_NOT_FOUND", `${what}: it does not exist`, error)
    if (reason === "ENOTDIR" || reason === "EEXIST")
      fail("E_NOT_A_DIRECTORY", `${what}: a part of the path is a file`, error)
    fail(code, `${what}: ${hint[reason ?? ""] ?? (error as Error).message}`, error)
  }
}
