/** A model with random weights, as transformers makes one from a config alone. Knows no files. */
import type { Backend, Key, Model, Tensor, Tokenizer, Weight } from "@peftjs/core"
import { bindModel, keyOf, normals, tensor, uploadDense } from "@peftjs/core"
import type { Architecture, ParamSpec } from "./architecture.ts"
import { architectureOf, defineModel } from "./architecture.ts"
import { configOf } from "./config.ts"
import { defaultArchitectures } from "./load.ts"

export interface InitOptions {
  readonly backend: Backend
  /** Equal seeds give equal weights on every backend; 0 unless told otherwise. */
  readonly seed?: number
  /** Written into adapters as base_model_name_or_path; "" unless told otherwise. */
  readonly name?: string
  readonly tokenizer?: Tokenizer
  readonly architectures?: readonly Architecture[]
}

/**
 * Makes a causal language model of a parsed config.json: matrices N(0, initializer_range²) with the padding token's embedding at 0,
 * norms 1, biases 0, all f32 (PreTrainedModel._init_weights of transformers 5.23). Throws E_CONFIG, E_MODEL.
 */
export function initCausalLM(config: Readonly<Record<string, unknown>>, options: InitOptions): Model {
  const { backend, seed = 0, name = "", tokenizer, architectures = defaultArchitectures } = options
  const checked = configOf(config)
  const blueprint = architectureOf(checked, architectures).blueprint(checked)
  const params = [...blueprint.params].map(([path, spec]): [string, Tensor | Weight] => {
    const values = initialValues(spec, keyOf(seed, "init", path), spec.std ?? blueprint.std)
    return [
      path,
      spec.shape.length === 1 ? tensor(backend, values, spec.shape) : uploadDense(backend, values, "f32", spec.shape),
    ]
  })
  return bindModel(defineModel(blueprint, { backend, config: checked, name, params: new Map(params), tokenizer }))
}

function initialValues({ shape, init, zeroRow }: ParamSpec, key: Key, std: number): Float32Array {
  const [rows, columns = 1] = shape
  if (init !== "normal") return new Float32Array(rows * columns).fill(init === "ones" ? 1 : 0)
  const values = normals(key, rows * columns, std)
  return zeroRow === undefined ? values : values.fill(0, zeroRow * columns, (zeroRow + 1) * columns)
}
