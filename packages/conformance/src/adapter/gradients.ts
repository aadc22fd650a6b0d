/** An adapter's gradients: for its parameters and nothing else, right by finite differences, the same when a block is computed again. */
import type { Model, Tensor } from "@peftjs/core"
import { free, keyOf, randomWords, setValues, trainables } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import { perturb, toyGradients, toyLoss, toyLosses } from "../toy-training.ts"
import type { Subject } from "./subject.ts"

export function gradientChecks({ method, options, it, base, adapted }: Subject): void {
  const { identity = true, detaches = [] } = options

  if (identity) {
    it("just initialised, it changes nothing", async () => {
      const model = await base()
      close(await toyLosses(await adapted(model)), await toyLosses(model), 1e-5, "losses")
    })
  }

  it("perturbed, it changes something", async () => {
    const model = await base()
    const [before, view] = [await toyLosses(model), await adapted(model)]
    perturb(view)
    const after = await toyLosses(view)
    check(
      after.some((x, i) => Math.abs(x - (before[i] as number)) > 1e-4),
      "the losses are those of the base",
    )
  })

  it("its trainable parameters get gradients, all of them, and nothing else does", async () => {
    const model = await adapted(await base())
    perturb(model)
    check(trainables(model).length > 0, `${method.name} has nothing to train`)
    await allLearn(model)
  })

  it("gradients agree with finite differences", async () => {
    const model = await adapted(await base())
    perturb(model)
    await finiteDifferences(model, detaches)
  })

  it("a block that is computed again draws the same dropout and gives the same gradients", async () => {
    const model = await adapted(await base())
    perturb(model)
    const run = { training: true, seed: 3, step: 5 }
    const kept = await toyGradients(model, run)
    const again = await toyGradients(model, { ...run, gradientCheckpointing: true })
    check(again.loss === kept.loss, `the loss is ${again.loss}, not ${kept.loss}`)
    check(again.gradients.size === kept.gradients.size, `${again.gradients.size} gradients, not ${kept.gradients.size}`)
    const read = (gradients: Map<Tensor, Tensor>): Promise<(ArrayLike<number> | undefined)[]> =>
      Promise.all(trainables(model).map(({ tensor }) => gradients.get(tensor)?.data()))
    const [first, second] = [await read(kept.gradients), await read(again.gradients)]
    for (const [i, { name }] of trainables(model).entries()) close(second[i] ?? [], first[i] ?? [], 1e-6, name)
    for (const g of [...kept.gradients.values(), ...again.gradients.values()]) free(g)
  })

  it("without training it draws nothing: the same losses whatever the step", async () => {
    const model = await adapted(await base())
    perturb(model)
    same(await toyLosses(model, { step: 1 }), await toyLosses(model, { step: 2, seed: 9 }), "losses")
  })
}

/** Everything trainable gets a gradient that is finite and not zero everywhere, and nothing else gets one. */
export async function allLearn(model: Model): Promise<void> {
  const { gradients } = await toyGradients(model)
  const expected = trainables(model)
  check(gradients.size === expected.length, `${gradients.size} tensors got gradients, not ${expected.length}`)
  const values = await Promise.all(expected.map(({ tensor }) => gradients.get(tensor)?.data()))
  for (const [i, { name }] of expected.entries()) {
    const gradient = values[i]
    check(gradient, `${name} got no gradient`)
    check(gradient.every(Number.isFinite), `${name}'s gradient is not finite`)
    check(
      gradient.some((g) => g !== 0),
      `${name}'s gradient is zero`,
    )
  }
  for (const g of gradients.values()) free(g)
}

/** The gradients of all parameters but those whose own names are in `except`, along that many directions each. */
export async function finiteDifferences(model: Model, except: readonly string[], directions = 3): Promise<void> {
  const { gradients } = await toyGradients(model)
  const checked = trainables(model).filter(({ name }) => !except.includes(name.split(".").at(-1) as string))
  const values = await Promise.all(checked.map(({ tensor }) => gradients.get(tensor)?.data()))
  for (const g of gradients.values()) free(g)
  for (const [i, { name, tensor }] of checked.entries())
    await checkDirections(model, name, tensor, values[i] as Float32Array, directions)
}

/** The derivative along a few directions of ±1, one of them the gradient's own signs, against five-point differences of the loss. */
async function checkDirections(
  model: Model,
  name: string,
  parameter: Tensor,
  gradient: Float32Array,
  count: number,
): Promise<void> {
  const values = (await parameter.data()) as Float32Array
  const signs = (seed: number): number[] =>
    Array.from(randomWords(keyOf(seed, name), values.length), (w) => (w % 2 === 0 ? 1 : -1))
  const directions = [Array.from(gradient, Math.sign), signs(1), signs(2)].slice(0, count)
  for (const direction of directions) {
    const terms = direction.map((d, i) => d * (gradient[i] as number))
    const found = terms.reduce((a, b) => a + b, 0)
    const size = terms.reduce((a, b) => a + Math.abs(b), 0)
    // Shorter where the loss is steep: it would bend within a longer one.
    const step = 0.01 * Math.min(1, 2 / size)
    const loss = (distance: number): Promise<number> => {
      setValues(
        parameter,
        values.map((x, i) => x + distance * (direction[i] as number)),
      )
      return toyLoss(model)
    }
    // Read together: on a device each waiting costs more than the loss.
    const [a, b, c, d] = await Promise.all([loss(step), loss(-step), loss(2 * step), loss(-2 * step)])
    const measured = (8 * (a - b) - (c - d)) / (12 * step)
    const allowed = 2e-3 * size + 1e-4
    check(
      Math.abs(found - measured) <= allowed,
      `${name}: ${found} along a direction, finite differences say ${measured}`,
    )
  }
  setValues(parameter, values)
}
