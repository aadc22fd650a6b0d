/** Several adapters on the same layers: each learns, each has the gradients of the whole, and without one the other is as if alone. */
import { type AdapterMethod, disable, enable, type Model, merge, unmerge } from "@peftjs/core"
import { close, same } from "../assert.ts"
import { toyScale } from "../toy-method.ts"
import { perturb, toyLogits, toyLosses } from "../toy-training.ts"
import { allLearn, finiteDifferences } from "./gradients.ts"
import { mergedTolerance, mergeTargets } from "./merging.ts"
import { allOff, copyParameters, put, type Subject } from "./subject.ts"

export function stackingChecks(subject: Subject): void {
  const { method, options, it, base, targets } = subject
  const { detaches = [] } = options
  const over = (model: Model, which: AdapterMethod, name: string): Promise<Model> => put(model, which, name, targets)

  it("stacked on itself: both learn, and without either the other is as if alone", () =>
    alone(over, [method, method], base))

  it("over another method: both learn, and without either the other is as if alone", () =>
    alone(over, [toyScale, method], base, detaches))

  it("under another method: both learn, and without either the other is as if alone", () =>
    alone(over, [method, toyScale], base, detaches))

  if (!method.mergeable) return
  it("merged with another method over it and under it, it computes the same", async () => {
    const at = await mergeTargets(subject)
    const model = await base()
    for (const [below, above] of [
      [toyScale, method],
      [method, toyScale],
    ] as const) {
      const view = await put(await put(model, below, "below", at), above, "above", at)
      perturb(view)
      const { model: merged } = await merge(view)
      close(await toyLogits(merged), await toyLogits(view), mergedTolerance, `${above.name} over ${below.name}: logits`)
      unmerge(merged)
    }
  })
}

async function alone(
  over: (model: Model, which: AdapterMethod, name: string) => Promise<Model>,
  [below, above]: readonly [AdapterMethod, AdapterMethod],
  base: Subject["base"],
  detaches?: readonly string[],
): Promise<void> {
  const model = await base()
  const [lower, upper] = [await over(model, below, "a"), await over(model, above, "b")]
  perturb(lower)
  perturb(upper, 0.2)
  const single = { a: await toyLosses(lower), b: await toyLosses(upper) }
  allOff(lower)
  const both = await over(lower, above, "b")
  enable(both, "a")
  copyParameters(upper, both)
  await allLearn(both)
  if (detaches) await finiteDifferences(both, detaches, 1)
  disable(both, "b")
  same(await toyLosses(both), single.a, "only the lower")
  enable(both, "b")
  disable(both, "a")
  same(await toyLosses(both), single.b, "only the upper")
}
