/** Attaching, switching off and on, stacking, taking off: the base is never changed, and every adapter minds its own parameters. */
import type { Model } from "@peftjs/core"
import { assign, detach, disable, enable, engineOf, free, noGrad, scope, trainables } from "@peftjs/core"
import { check, same } from "../assert.ts"
import { perturb, toyGradients, toyLosses } from "../toy-training.ts"
import type { Subject } from "./subject.ts"

/** Names that contain one another, as careless code would confuse them. */
export const hostileNames = ["default", "default2", "other_default", "efaul"] as const

export function lifecycleChecks({ options, base, adapted }: Subject): void {
  const { it } = options

  it("disable gives exactly the base, enable exactly the adapter, detach exactly the base and its memory", async () => {
    const model = await base()
    const engine = engineOf(model.backend)
    const plain = await toyLosses(model)
    const before = engine.liveBuffers
    const view = adapted(model)
    perturb(view)
    const changed = await toyLosses(view)
    disable(view)
    same(await toyLosses(view), plain, "disabled")
    enable(view)
    same(await toyLosses(view), changed, "enabled again")
    const { gradients } = await toyGradients(view, { training: true })
    for (const g of gradients.values()) free(g)
    const off = detach(view)
    same(await toyLosses(off), plain, "detached")
    same(await toyLosses(model), plain, "the model it was put on")
    check(engine.liveBuffers === before, `${engine.liveBuffers - before} buffers were left behind`)
  })

  it("stacked on itself: both learn, and without either the other is as if alone", async () => {
    const model = await base()
    const [lower, upper] = [adapted(model, "a"), adapted(model, "b")]
    perturb(lower)
    perturb(upper, 0.2)
    const alone = { a: await toyLosses(lower), b: await toyLosses(upper) }
    const both = adapted(lower, "b")
    copyOf(upper, both)
    const { gradients } = await toyGradients(both)
    check(
      gradients.size === trainables(both).length,
      `${gradients.size} of ${trainables(both).length} parameters learn`,
    )
    for (const g of gradients.values()) free(g)
    disable(both, "b")
    same(await toyLosses(both), alone.a, "only the first")
    enable(both, "b")
    disable(both, "a")
    same(await toyLosses(both), alone.b, "only the second")
    enable(both, "a")
  })

  it("adapters whose names contain one another do not touch each other", async () => {
    const model = await base()
    let all = model
    const alone: Float32Array[] = []
    for (const [i, name] of hostileNames.entries()) {
      all = adapted(all, name)
      const single = adapted(model, name)
      perturb(single, 0.1 * (i + 1))
      alone.push(await toyLosses(single))
      copyOf(single, all)
      detach(single, name)
    }
    for (const [i, name] of hostileNames.entries()) {
      for (const other of hostileNames) (other === name ? enable : disable)(all, other)
      same(await toyLosses(all), alone[i] as Float32Array, `only "${name}"`)
    }
    for (const name of [...hostileNames].reverse()) all = detach(all, name)
    same(await toyLosses(all), await toyLosses(model), "all taken off")
  })

  it("the same seed gives the same parameters", async () => {
    const [one, two] = [trainables(adapted(await base())), trainables(adapted(await base()))]
    for (const [i, { name, tensor }] of one.entries())
      same((await two[i]?.tensor.data()) ?? [], await tensor.data(), name)
  })
}

/** Gives the last adapter of `to` the parameters of the last of `from`. */
function copyOf(from: Model, to: Model): void {
  const [source, target] = [from.view.adapters.at(-1), to.view.adapters.at(-1)]
  for (const [path, { params }] of source?.sites ?? []) {
    for (const [key, { value }] of Object.entries(params)) {
      const parameter = target?.sites.get(path)?.params[key]
      check(parameter, `${path} has no parameter ${key} the second time`)
      const { engine } = value
      scope(engine, () => noGrad(engine, () => assign(parameter.value, value.mul(1))))
    }
  }
}
