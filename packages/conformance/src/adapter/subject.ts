/** What the adapter checks share: the method under test on toy models of one backend, and its parameters. */
import type { Adapter, AdapterMethod, Backend, LoadReport, Model, WeightFormat } from "@peftjs/core"
import { adaptAsync, adapterOf, assign, freeAdapter, freeValues, loadAdapter, noGrad, scope } from "@peftjs/core"
import type { BackendEntry, MakeBackend, RequiredBackends, Runner } from "../runner.ts"
import { toyModel, toySites } from "../toy-model.ts"
import type { Folder } from "./folder.ts"

export interface TestAdapterOptions extends Runner, RequiredBackends {
  /** Where to run it: names, and factories or the reason why there is none. Factories may give the same backend at every call. */
  readonly backends: Readonly<Record<string, BackendEntry>>
  /** What to call it in the summary; the method's own name unless told otherwise. */
  readonly name?: string
  /** Sites of the toy model to adapt, as suffixes; every site of a kind that the method claims, unless told otherwise. */
  readonly targetModules?: readonly string[]
  /** Whether the method, just initialised, changes nothing; true unless told otherwise. */
  readonly identity?: boolean
  /** Names of parameters whose gradient the method cuts on purpose (DoRA's norm), so that finite differences do not apply. */
  readonly detaches?: readonly string[]
  /** What its tensors are called on disk behind the module path, all of them: ["lora_A.weight", "lora_B.weight"]. Not checked unless told. */
  readonly savedAs?: readonly string[]
  /** Formats in which weights under it are stored, beside dense f32, bf16 and f16, by name; only a backend without u8 may refuse them. */
  readonly weights?: Readonly<Record<string, WeightFormat>>
}

export interface Subject {
  readonly method: AdapterMethod
  readonly options: TestAdapterOptions
  /** Full paths of the toy model's sites that it adapts. */
  readonly targets: readonly string[]
  /** Declares a check; what `base` and `load` made in it is freed when it ends. */
  it(name: string, body: () => void | Promise<void>): void
  /** A bare model on the one backend of all checks; the plain toy model unless told otherwise. */
  base(make?: (backend: Backend) => Model | Promise<Model>): Promise<Model>
  /** The model with the method on it, at all targets unless told otherwise; prepared, where the method looks at the base first. */
  adapted(model: Model, name?: string, at?: readonly string[]): Promise<Model>
  /** The model with the adapter of a folder on it. */
  load(model: Model, folder: Folder, name?: string): Promise<{ model: Model; report: LoadReport }>
}

export function subjectOf(method: AdapterMethod, options: TestAdapterOptions, makeBackend: MakeBackend): Subject {
  const { targetModules } = options
  const targets = Object.entries(toySites)
    .filter(([path, { kind }]) =>
      targetModules
        ? targetModules.some((name) => path === name || path.endsWith(`.${name}`))
        : method.sites.includes(kind),
    )
    .map(([path]) => path)
  let backend: Promise<Backend> | undefined
  const made: Model[] = []
  const loaded: Adapter[] = []
  return {
    method,
    options,
    targets,
    it: (name, body) =>
      void options.it(name, async () => {
        try {
          await body()
        } finally {
          // By hand: what is left to the garbage collector would go in the middle of a check that counts buffers.
          for (const adapter of loaded.splice(0)) freeAdapter(adapter)
          for (const { params } of made.splice(0)) freeValues(new Set(params.values()))
        }
      }),
    async base(make = toyModel) {
      backend ??= Promise.resolve(makeBackend())
      const model = await make(await backend)
      made.push(model)
      return model
    },
    adapted: (model, name = "default", at = targets) => put(model, method, name, at),
    async load(model, folder, name = "default") {
      const found = await loadAdapter(model, folder, { methods: [method], name })
      loaded.push(adapterOf(found.model, name))
      return found
    },
  }
}

// Never let go: what stands in for a base would be collected in the middle of a check that counts buffers.
const kept: Model[] = []

/** The model with a method over it, whether or not its start looks at the base. */
export async function put(model: Model, method: AdapterMethod, name: string, at: readonly string[]): Promise<Model> {
  const view = await adaptAsync(model, method, { name, targetModules: at })
  kept.push(view)
  return view
}

/** Switches all adapters off: what is put on next finds the base's own weights, whoever left a residual before it. */
export function allOff(model: Model): void {
  for (const adapter of model.view.adapters) adapter.enabled = false
}

/** Gives the last adapter of `to` the parameters of the last of `from`, which sits on the same sites. */
export function copyParameters(from: Model, to: Model): void {
  const [source, target] = [from.view.adapters.at(-1), to.view.adapters.at(-1)]
  for (const [path, { params }] of source?.sites ?? []) {
    for (const [key, { value }] of Object.entries(params)) {
      const parameter = target?.sites.get(path)?.params[key]
      if (!parameter) throw new Error(`${path} has no parameter ${key} the second time`)
      const { engine } = value
      scope(engine, () => noGrad(engine, () => assign(parameter.value, value.mul(1))))
    }
  }
}
