/**
 * What the process takes when everything but the weights is there: seen when the first of them is asked for, since what reading leaves
 * behind for the garbage collector cannot be told from what stays. Knows the one thing about files that it needs: where a header begins.
 */
import type { FileSource } from "@peftjs/safetensors"

/** A header's own length stands before it. */
const headerAt = 8

export interface Watched {
  readonly through: (files: FileSource) => FileSource
  /** Bytes; where no weight was asked for, those of now. */
  taken(): number
}

/** Watches a model being loaded; `through` is how its files are read besides. */
export function withoutWeights(through: (files: FileSource) => FileSource = (files) => files): Watched {
  let seen: number | undefined
  return {
    taken: () => seen ?? process.memoryUsage.rss(),
    through(given) {
      const files = through(given)
      return {
        ...files,
        async open(path) {
          const file = await files.open(path)
          return {
            ...file,
            read(from, to, into) {
              if (from > headerAt) seen ??= process.memoryUsage.rss()
              return file.read(from, to, into)
            },
          }
        },
      }
    },
  }
}
