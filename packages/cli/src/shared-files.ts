/**
 * A model's files read once for all threads of a process: large ranges lie in shared memory, and whoever reads the same again is given the
 * same bytes. The CPU backend keeps them as they are, so that a frozen base exists once. Must not know models or training.
 */
import type { FileSource } from "@peftjs/safetensors"

/** Ranges by file and position. */
export type SharedRanges = Map<string, SharedArrayBuffer>

/** From this size on: what is smaller is no weight that matters. */
const sharedBytes = 2 ** 16

/** Reads through `known`, and notes there what it has not: empty in the thread that reads first, what that has noted in the others. */
export function sharedFiles(files: FileSource, known: SharedRanges): FileSource {
  return {
    ...files,
    async open(path) {
      const file = await files.open(path)
      return {
        ...file,
        async read(from, to) {
          if (to - from < sharedBytes) return file.read(from, to)
          const key = `${path} ${from} ${to}`
          const found = known.get(key)
          if (found) return new Uint8Array(found)
          const data = await file.read(from, to)
          const memory = new SharedArrayBuffer(data.byteLength)
          new Uint8Array(memory).set(data)
          known.set(key, memory)
          return new Uint8Array(memory)
        },
      }
    },
  }
}
