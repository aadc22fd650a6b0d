/** A folder in memory, for tests, browsers and programs that pass checkpoints on without a disk. */
import { bytes, checkPath, type FileSink, type FileSource } from "./byte-source.ts"
import { fail } from "./error.ts"

/** A folder in memory; `files` shows what it holds at the moment. */
export interface MemoryFiles extends FileSource, FileSink {
  readonly files: ReadonlyMap<string, Uint8Array>
  list(): Promise<string[]>
  /** Removes a file, or a folder with what is in it; nothing where there is neither. */
  remove(path: string): Promise<void>
}

/**
 * Makes a folder in memory.
 *
 * @param initial files it holds from the start; not copied
 */
export function memoryFiles(initial: Iterable<readonly [string, Uint8Array]> = [], name = "memory"): MemoryFiles {
  const files = new Map<string, Uint8Array>()
  for (const [path, data] of initial) files.set(checkPath(path), data)
  return {
    name,
    files,
    open: async (path) => {
      const data = files.get(checkPath(path)) ?? fail("E_FILE_NOT_FOUND", `${path} is not in ${name}`)
      return bytes(`${name}/${path}`, data)
    },
    has: async (path) => files.has(checkPath(path)),
    list: async () => [...files.keys()].sort(),
    write: async (path, chunks) => {
      checkPath(path)
      const parts: Uint8Array[] = []
      // Copied at once: a writer may reuse its buffer for the next chunk.
      for await (const chunk of chunks) parts.push(chunk.slice())
      files.set(path, concat(parts))
    },
    remove: async (path) => {
      checkPath(path)
      for (const file of files.keys()) if (file === path || file.startsWith(`${path}/`)) files.delete(file)
    },
  }
}

/** All parts in one array. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.byteLength, 0))
  let position = 0
  for (const part of parts) {
    whole.set(part, position)
    position += part.byteLength
  }
  return whole
}
