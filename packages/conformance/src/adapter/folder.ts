/** A folder in memory, for what adapters write and read. */
import type { loadAdapter, saveAdapter } from "@peftjs/core"
import { PeftError } from "@peftjs/core"

type Sink = Parameters<typeof saveAdapter>[1]
type Source = Parameters<typeof loadAdapter>[1]

export type Folder = Sink & Source & { readonly files: ReadonlyMap<string, Uint8Array> }

export function memoryFolder(): Folder {
  const files = new Map<string, Uint8Array>()
  return {
    name: "memory",
    files,
    async write(path, chunks) {
      const bytes: number[] = []
      for await (const chunk of chunks) bytes.push(...chunk)
      files.set(path, Uint8Array.from(bytes))
    },
    async open(path) {
      const data = files.get(path)
      if (!data) throw new PeftError("E_FILE_NOT_FOUND", `[conformance] ${path} was not written`)
      return { name: path, size: data.length, read: async (start, end) => data.subarray(start, end) }
    },
    has: async (path) => files.has(path),
  }
}

/** A folder inside another. */
export function subfolder(folder: Folder, name: string): Folder {
  return { ...folder, open: (path) => folder.open(`${name}/${path}`), has: (path) => folder.has(`${name}/${path}`) }
}

/** The tensors of a safetensors file, by its header. */
export function tensorsIn(file: Uint8Array): Readonly<Record<string, { dtype: string; shape: readonly number[] }>> {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))
  const { __metadata__: _, ...tensors } = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)))
  return tensors
}
