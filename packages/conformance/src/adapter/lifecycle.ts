/** Attaching, switching off and on, taking off: the base is never changed, and every adapter minds its own parameters. */
import { detach, disable, enable, engineOf, free, trainables } from "@peftjs/core"
import { check, same, throwsCode } from "../assert.ts"
import { toySites } from "../toy-model.ts"
import { perturb, toyGradients, toyLosses } from "../toy-training.ts"
import { allOff, copyParameters, type Subject } from "./subject.ts"

/** Names that contain one another, as careless code would confuse them. */
export const hostileNames = ["default", "default2", "other_default", "efaul"] as const

export function lifecycleChecks({ it, method, targets, base, adapted }: Subject): void {
  it("disable gives exactly the base, enable exactly the adapter, detach exactly the base and its memory", async () => {
    const model = await base()
    const engine = engineOf(model.backend)
    const plain = await toyLosses(model)
    const before = engine.liveBuffers
    const view = await adapted(model)
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

  it("adapters whose names contain one another do not touch each other", async () => {
    const model = await base()
    let all = model
    const alone: Float32Array[] = []
    for (const [i, name] of hostileNames.entries()) {
      allOff(all)
      all = await adapted(all, name)
      const single = await adapted(model, name)
      perturb(single, 0.1 * (i + 1))
      alone.push(await toyLosses(single))
      copyParameters(single, all)
      detach(single, name)
    }
    for (const [i, name] of hostileNames.entries()) {
      for (const other of hostileNames) (other === name ? enable : disable)(all, other)
      same(await toyLosses(all), alone[i] as Float32Array, `only "${name}"`)
    }
    for (const name of [...hostileNames].reverse()) all = detach(all, name)
    same(await toyLosses(all), await toyLosses(model), "all taken off")
  })

  it("detach takes one of two off, on or off, and the other stays as it was", async () => {
    const model = await base()
    for (const active of [true, false]) {
      const one = await adapted(model, "stays")
      perturb(one)
      const alone = await toyLosses(one)
      const both = await adapted(one, "goes")
      disable(both, "stays")
      perturb(both)
      enable(both, "stays")
      if (!active) disable(both, "goes")
      same(await toyLosses(detach(both, "goes")), alone, active ? "the active one taken off" : "the inactive one")
    }
  })

  it("a name that is unknown or taken and a layer it cannot adapt are refused, and nothing is left behind", async () => {
    const model = await base()
    const view = await adapted(model, "default")
    perturb(view)
    const [before, live] = [await toyLosses(view), engineOf(model.backend).liveBuffers]
    for (const change of [detach, disable, enable])
      await throwsCode("E_ADAPTER_NAME", () => change(view, "nobody"), change.name)
    await throwsCode("E_ADAPTER_NAME", () => adapted(view, "default"), "a name that is taken")
    await throwsCode("E_TARGET", () => adapted(model, "nowhere", ["no_such_layer"]), "a layer that is not there")
    for (const [path, { kind }] of Object.entries(toySites)) {
      if (method.sites.includes(kind)) continue
      const both = [...targets, path]
      await throwsCode("E_SITE_KIND", () => adapted(view, "other", both), path)
    }
    same(await toyLosses(view), before, "afterwards")
    const left = engineOf(model.backend).liveBuffers - live
    check(left === 0, `${left} buffers were left behind`)
  })

  it("the same seed gives the same parameters", async () => {
    const [one, two] = [trainables(await adapted(await base())), trainables(await adapted(await base()))]
    const read = async (all: typeof one): Promise<ArrayLike<number>[]> =>
      Promise.all(all.map(({ tensor }) => tensor.data()))
    const [first, second] = [await read(one), await read(two)]
    for (const [i, { name }] of one.entries()) same(second[i] ?? [], first[i] ?? [], name)
  })
}
