/** NewName: y = W x + B A x with A [r, in] and B [out, r]. Say here which paper it is from, and replace the formula. */
import {
  type AdapterFormat,
  type AdapterMethod,
  completeOptions,
  configFor,
  type MethodFactory,
  optionsOf,
  PeftError,
  param,
  type Tensor,
} from "@peftjs/core"

export interface NewNameOptions {
  /** Rank of the update; a positive integer. 8 by default. */
  readonly r?: number
  /** Probability of dropping an element of the adapter's input in training, 0 ≤ p < 1. 0 by default. */
  readonly dropout?: number
}

const defaults: Required<NewNameOptions> = { r: 8, dropout: 0 }

function make(options: NewNameOptions = {}): AdapterMethod {
  const config = completeOptions("new-name", defaults, options)
  const { r, dropout } = config
  if (!Number.isInteger(r) || r < 1) throw new PeftError("E_RANK", `[new-name] r = ${r} must be a positive integer`)
  if (!(dropout >= 0 && dropout < 1))
    throw new PeftError("E_OPTION", `[new-name] dropout = ${dropout} must be at least 0 and less than 1`)
  return {
    kind: "site",
    specVersion: 1,
    name: "new-name",
    config: { ...config },
    sites: ["linear"],
    mergeable: true,
    format,
    init({ site, init }) {
      const bound = 1 / Math.sqrt(site.in)
      const [A, B] = [init.uniform("A", [r, site.in], -bound, bound), init.zeros([site.out, r])]
      return { params: { A: param(A), B: param(B) } }
    },
    forward(x, next, params, context) {
      const { A, B } = params as Record<"A" | "B", Tensor>
      return next(x).add(context.dropout(x, dropout).matmul(A.T).matmul(B.T))
    },
  }
}

/** Option → its key in adapter_config.json. */
const spelling: Record<keyof NewNameOptions, string> = { r: "r", dropout: "new_name_dropout" }
const keys = configFor(spelling, defaults as Readonly<Record<string, unknown>>)

const format: AdapterFormat = {
  peftType: "NEW_NAME",
  defaults: keys,
  supported: Object.keys(keys),
  read: (config) => make(optionsOf("new-name", spelling, keys, config)),
  write: ({ config }) => configFor(spelling, config),
  tensorName: (name) => `new_name_${name}.weight`,
}

/** NewName for linear layers. Throws E_OPTION, E_RANK. */
export const newName: MethodFactory<NewNameOptions> = Object.assign(make, { format })
