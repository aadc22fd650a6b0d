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
          const memory = new SharedArrayBuffer(to - from)
          const whole = new Uint8Array(memory)
          const data = await file.read(from, to, whole)
          if (data.buffer !== memory) whole.set(data)
          // A file that was cut meanwhile gives less: its reader refuses that.
          if (data.byteLength < to - from) return data
          known.set(key, memory)
          return whole
        },
      }
    },
  }
}
