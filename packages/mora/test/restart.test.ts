/** ReMoRA by hand: five steps, merge, the next type from zero with a fresh optimizer, twice; every number as torch recorded it. */
import { readFileSync } from "node:fs"
import { cpu } from "@peftjs/backend-cpu"
import {
  adapt,
  assign,
  engineOf,
  free,
  merge,
  noGrad,
  scope,
  tensor,
  trainables,
  valueAndGradients,
  type Weight,
} from "@peftjs/core"
import { loadCausalLM } from "@peftjs/models/node"
import { expect, it } from "vitest"
import { mora } from "../src/index.ts"
import { commonFixture, fixture, largest, tensorsOf } from "./helpers.ts"

interface Recorded {
  readonly options: {
    readonly r: number
    readonly cycle: number
    readonly targets: readonly string[]
    readonly optimizer: { readonly betas: [number, number]; readonly eps: number; readonly weight_decay: number }
  }
  readonly expected: Readonly<Record<"loss" | "grad_norm" | "lr", readonly number[]>>
  readonly final_base_weights: Readonly<Record<string, { abs_sum: number; l2: number; first: number; last: number }>>
  readonly tolerance: Readonly<Record<"loss_abs" | "grad_norm_abs" | "base_weights_abs" | "logits_abs", number>>
}
const recorded = JSON.parse(readFileSync(fixture("remora-delete/expected.json"), "utf8")) as Recorded
const { options, expected, tolerance } = recorded
const batches = tensorsOf(fixture("remora-delete/batches.safetensors"))
const batch = (key: string, step: number): Int32Array =>
  Int32Array.from(batches.get(key)?.subarray(step * 24, step * 24 + 24) ?? [])

it("merges, changes the type and goes on", async () => {
  const backend = await cpu({ kernels: "reference" })
  const engine = engineOf(backend)
  const { optimizer, cycle, r, targets } = options
  const [beta1, beta2] = optimizer.betas
  let method = mora({ r, type: 1 })
  let base = await loadCausalLM(commonFixture("models/llama"), { backend })
  let model = adapt(base, method, { targetModules: targets })
  let state = new Map<string, { m: Float64Array; v: Float64Array }>()
  const [losses, norms]: [number[], number[]] = [[], []]
  for (let step = 0; step < expected.loss.length; step++) {
    if (step > 0 && step % cycle === 0) {
      base = (await merge(model)).model
      method = method.restart?.(step / cycle) ?? method
      model = adapt(base, method, { targetModules: targets })
      state = new Map()
    }
    const input = { ids: batch("input_ids", step), batch: 2, tokens: 12, mask: batch("attention_mask", step) }
    const labels = batch("labels", step)
    const { value, gradients } = valueAndGradients(engine, () => model.losses(input, labels, { training: true }).mean())
    losses.push((await value.data())[0] as number)
    const found = await Promise.all(
      trainables(model).map(async ({ name, tensor: p }) => ({
        ...{ name, p, values: Float64Array.from((await p.data()) as Float32Array) },
        gradient: Float64Array.from((await gradients.get(p)?.data()) as Float32Array),
      })),
    )
    for (const t of [value, ...gradients.values()]) free(t)
    const norm = Math.sqrt(found.reduce((sum, { gradient }) => gradient.reduce((s, g) => s + g * g, sum), 0))
    norms.push(norm)
    const [clip, t, lr] = [Math.min(1, 1 / (norm + 1e-6)), (step % cycle) + 1, expected.lr[step] as number]
    for (const { name, p, values, gradient } of found) {
      const { m, v } = state.get(name) ?? { m: new Float64Array(p.size), v: new Float64Array(p.size) }
      state.set(name, { m, v })
      const next = values.map((w, i) => {
        const g = (gradient[i] as number) * clip
        m[i] = beta1 * (m[i] as number) + (1 - beta1) * g
        v[i] = beta2 * (v[i] as number) + (1 - beta2) * g * g
        const [mean, square] = [(m[i] as number) / (1 - beta1 ** t), (v[i] as number) / (1 - beta2 ** t)]
        return w * (1 - lr * optimizer.weight_decay) - (lr * mean) / (Math.sqrt(square) + optimizer.eps)
      })
      scope(engine, () => noGrad(engine, () => assign(p, tensor(backend, Float32Array.from(next), p.shape))))
    }
  }
  expect(method.config.type).toBe("contiguous-tile")
  expect(largest(losses, expected.loss)).toBeLessThan(tolerance.loss_abs)
  expect(largest(norms, expected.grad_norm)).toBeLessThan(tolerance.grad_norm_abs)
  for (const [path, { abs_sum, l2, first, last }] of Object.entries(recorded.final_base_weights)) {
    const weight = base.view.overlays.get(path) as Weight
    const values = (await weight.rows({ start: 0, end: weight.shape[0] }).data()) as Float32Array
    const total = (f: (x: number) => number): number => values.reduce((sum, x) => sum + f(x), 0)
    expect(Math.abs((values[0] as number) - first), path).toBeLessThan(tolerance.base_weights_abs)
    expect(Math.abs((values.at(-1) as number) - last), path).toBeLessThan(tolerance.base_weights_abs)
    expect(Math.abs(total(Math.abs) - abs_sum) / Math.sqrt(values.length), path).toBeLessThan(
      tolerance.base_weights_abs,
    )
    expect(Math.abs(Math.sqrt(total((x) => x * x)) - l2), path).toBeLessThan(tolerance.base_weights_abs)
  }
})
