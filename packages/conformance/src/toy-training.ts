/** Losses, gradients and a few training steps on the toy model, with a method's penalty and hook where they belong. */
import type { Model, Param, Params, RunOptions, Tensor } from "@peftjs/core"
import {
  assign,
  engineOf,
  free,
  keyOf,
  noGrad,
  normals,
  randomWords,
  type Site,
  scope,
  tensor,
  trainables,
  valueAndGradients,
} from "@peftjs/core"
import { toyBatch, toySizes } from "./toy-model.ts"

const valuesOf = (params: Readonly<Record<string, Param>>): Params =>
  Object.fromEntries(Object.entries(params).map(([name, { value }]) => [name, value]))

/** Loss of every counted label. */
export async function toyLosses(model: Model, options: RunOptions = {}): Promise<Float32Array> {
  const { input, labels } = toyBatch()
  const losses = model.losses(input, labels, options)
  const values = (await losses.data()) as Float32Array
  free(losses)
  return values
}

/** Logits of four rows of eight random tokens, one row after the other, so that small buffers do. */
export async function toyLogits(model: Model): Promise<Float32Array> {
  const [rows, tokens] = [4, 8]
  const ids = Int32Array.from(randomWords(keyOf(0, "toy inputs"), rows * tokens), (word) => word % toySizes.vocab)
  const outputs = Array.from({ length: rows }, (_, i) =>
    model.forward({ ids: ids.slice(i * tokens, (i + 1) * tokens), batch: 1, tokens }),
  )
  const values = await Promise.all(outputs.map((output) => output.data()))
  for (const output of outputs) free(output)
  return Float32Array.from(values.flatMap((row) => [...row]))
}

/** Mean of the losses and penalties, summed in f64 on the host. With the parameters as they are at the call, whatever they are when it ends. */
export async function toyLoss(model: Model, options: RunOptions = {}): Promise<number> {
  const { input, labels } = toyBatch()
  const losses = model.losses(input, labels, options)
  const rest = scope(engineOf(model.backend), () => penalties(model))
  const [values = [], ...penalty] = await Promise.all([losses, ...rest].map((t) => t.data()))
  for (const t of [losses, ...rest]) free(t)
  const mean = (values as Float32Array).reduce((a, b) => a + b, 0) / values.length
  return penalty.reduce((sum, p) => sum + (p[0] as number), mean)
}

function penalties(model: Model): Tensor[] {
  return model.view.adapters.flatMap(({ method, sites, shared, enabled }) =>
    [...sites].flatMap(([path, { params }]) => {
      const context = { site: model.sites.get(path) as Site, shared, count: sites.size }
      return (enabled ? method.penalty?.(valuesOf(params), context).sum() : undefined) ?? []
    }),
  )
}

/** Loss and gradients, the latter held until `free`. */
export async function toyGradients(
  model: Model,
  options: RunOptions = {},
): Promise<{ loss: number; gradients: Map<Tensor, Tensor> }> {
  const { input, labels } = toyBatch()
  const { value, gradients } = valueAndGradients(engineOf(model.backend), () =>
    penalties(model).reduce((a, b) => a.add(b), model.losses(input, labels, options).mean()),
  )
  const loss = (await value.data())[0] as number
  free(value)
  return { loss, gradients }
}

/**
 * One step of gradient descent in which every parameter moves by `rate` on average (its gradient is divided by its root mean square),
 * then the methods' hooks run. Returns the loss before it.
 */
export async function toyStep(model: Model, step: number, rate = 0.02): Promise<number> {
  const engine = engineOf(model.backend)
  const { loss, gradients } = await toyGradients(model, { training: true, step })
  scope(engine, () =>
    noGrad(engine, () => {
      for (const [parameter, gradient] of gradients) {
        const size = gradient.square().mean().sqrt().add(1e-12)
        assign(parameter, parameter.sub(gradient.mul(rate).div(size)))
      }
    }),
  )
  for (const { method, sites, enabled } of model.view.adapters) {
    if (!enabled || !method.afterStep) continue
    const states = [...sites].map(([path, { params }]) => {
      const found = Object.entries(params).flatMap(([name, { value }]) => {
        const gradient = gradients.get(value)
        return gradient ? [[name, gradient] as const] : []
      })
      return [path, { params: valuesOf(params), gradients: Object.fromEntries(found) }] as const
    })
    await noGrad(engine, () =>
      scope(engine, () => method.afterStep?.({ step, gradScale: 1, sites: new Map(states), set: assign })),
    )
  }
  for (const gradient of gradients.values()) free(gradient)
  return loss
}

/** Adds N(0, std²) to everything trainable, so that no parameter is where its method put it. */
export function perturb(model: Model, std = 0.1): void {
  const engine = engineOf(model.backend)
  for (const { name, tensor: parameter } of trainables(model)) {
    const noise = normals(keyOf(0, "perturb", name), parameter.size, std)
    scope(engine, () =>
      noGrad(engine, () => assign(parameter, parameter.add(tensor(model.backend, noise, parameter.shape)))),
    )
  }
}
