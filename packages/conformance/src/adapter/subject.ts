/** What the adapter checks share: the method under test on a toy model of some backend, its parameters, and a folder in memory. */
import type { AdapterMethod, Backend, Model, saveAdapter, Tensor } from "@peftjs/core"
import { adapt, assign, engineOf, noGrad, PeftError, scope, tensor } from "@peftjs/core"
import type { Runner } from "../runner.ts"
import { toyModel } from "../toy-model.ts"

export interface TestAdapterOptions extends Runner {
  /** Where to run it: names and factories. At least one. */
  readonly backends: Readonly<Record<string, () => Backend | Promise<Backend>>>
  /** What to call it in the summary; the method's own name unless told otherwise. */
  readonly name?: string
  /** Sites of the toy model to adapt; every site of a kind that the method claims, unless told otherwise. */
  readonly targetModules?: readonly string[]
  /** Whether the method, just initialised, changes nothing; true unless told otherwise. */
  readonly identity?: boolean
  /** Names of parameters whose gradient the method cuts on purpose (DoRA's norm), so that finite differences do not apply. */
  readonly detaches?: readonly string[]
}

export interface Subject {
  readonly method: AdapterMethod
  readonly options: TestAdapterOptions
  /** The bare model, on a backend of its own. */
  base(): Promise<Model>
  /** The model with the method on it. */
  adapted(model: Model, name?: string): Model
}

export function subjectOf(
  method: AdapterMethod,
  options: TestAdapterOptions,
  makeBackend: () => Backend | Promise<Backend>,
): Subject {
  const sitesOf = (model: Model): string[] =>
    [...model.sites.values()].filter((site) => method.sites.includes(site.kind)).map((site) => site.path)
  return {
    method,
    options,
    base: async () => toyModel(await makeBackend()),
    adapted: (model, name = "default") =>
      adapt(model, method, { name, targetModules: options.targetModules ?? sitesOf(model) }),
  }
}

/** Replaces a parameter's values. */
export function setValues(backend: Backend, parameter: Tensor, values: Float32Array): void {
  const engine = engineOf(backend)
  scope(engine, () => noGrad(engine, () => assign(parameter, tensor(backend, values, parameter.shape))))
}

export type Folder = Parameters<typeof saveAdapter>[1] & {
  readonly files: ReadonlyMap<string, Uint8Array>
  open(path: string): Promise<{ name: string; size: number; read(start: number, end: number): Promise<Uint8Array> }>
  has(path: string): Promise<boolean>
}

/** A folder in memory. */
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
