/** Folders for the loaders: the bundled one comes by fetch, one that a person chose is read from their disk piece by piece. */
import { type FileSource, type MemoryFiles, memoryFiles } from "@peftjs/safetensors"

const bundled = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "model.safetensors",
]

/** The demo's model and questions. `page` is the page's address: a worker's script may lie elsewhere. */
export function bundledFiles(page: string): { model(): Promise<MemoryFiles>; questions(): Promise<string> } {
  const get = async (path: string): Promise<Uint8Array> => {
    const response = await fetch(new URL(path, page))
    if (!response.ok) throw new Error(`${response.url} answers ${response.status}; is the page served with its files?`)
    return new Uint8Array(await response.arrayBuffer())
  }
  return {
    async model() {
      const files = await Promise.all(
        bundled.map(async (name): Promise<[string, Uint8Array]> => [name, await get(`model/${name}`)]),
      )
      return memoryFiles(files, "demo/model")
    },
    questions: async () => new TextDecoder().decode(await get("train.jsonl")),
  }
}

/** Files that a person chose, by their names: folders inside the chosen one are left out. */
export function chosenFiles(chosen: readonly File[]): FileSource {
  const folder = chosen[0]?.webkitRelativePath.split("/")[0] || "your files"
  const top = chosen.filter((file) => file.webkitRelativePath.split("/").length <= 2)
  const files = new Map(top.map((file) => [file.name, file]))
  return {
    name: folder,
    has: async (path) => files.has(path),
    list: async () => [...files.keys()].sort(),
    async open(path) {
      const file = files.get(path)
      if (!file) throw new Error(`${path} is not in ${folder}, which has ${[...files.keys()].join(", ") || "no files"}`)
      const read = async (start: number, end: number): Promise<Uint8Array> =>
        new Uint8Array(await file.slice(start, end).arrayBuffer())
      return { name: `${folder}/${path}`, size: file.size, read }
    },
  }
}
