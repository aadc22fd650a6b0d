/** An adapter learns: twenty steps lower the loss of a toy model, leave nothing behind, and go the same way on every backend. */
import { engineOf, saveAdapter } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import { perturb, toyLosses, toyStep } from "../toy-training.ts"
import { memoryFolder } from "./folder.ts"
import type { Subject } from "./subject.ts"

/** Losses before each of some steps. */
async function train({ base, adapted }: Subject, steps: number): Promise<number[]> {
  const model = await adapted(await base())
  const engine = engineOf(model.backend)
  const [losses, live]: [number[], number[]] = [[], []]
  for (let step = 0; step < steps; step++) {
    losses.push(await toyStep(model, step))
    live.push(engine.liveBuffers)
  }
  check(live.at(-1) === live[1], `${live[1]} buffers after two steps, ${live.at(-1)} after ${steps}`)
  return losses
}

const known = new WeakMap<Subject, Promise<number[]>>()

/** The curve of twenty steps, trained once for every check that looks at it. */
function curve(subject: Subject): Promise<number[]> {
  const losses = known.get(subject) ?? train(subject, 20)
  known.set(subject, losses)
  return losses
}

export function trainingChecks(subject: Subject, others: Readonly<Record<string, Subject>>): void {
  const { it, method, base, load } = subject
  it("twenty steps lower the loss and leave no buffer behind", async () => {
    const losses = await curve(subject)
    const [first, last] = [losses[0] as number, losses.at(-1) as number]
    check(last < first - 0.01, `the loss went from ${first} to ${last}`)
  })

  it("the same training again gives the same bits", async () =>
    same(await train(subject, 4), (await curve(subject)).slice(0, 4), "losses"))

  for (const [name, other] of Object.entries(others)) {
    it(`twenty steps have the losses of ${name}`, async () => {
      const [found, expected] = [await curve(subject), await curve(other)]
      for (const [i, loss] of expected.entries()) {
        const apart = Math.abs((found[i] as number) - loss) / Math.abs(loss)
        check(apart < 1e-3, `the loss of step ${i} is ${found[i]}, not ${loss}`)
      }
    })

    if (!method.format) continue
    it(`what is saved on ${name} computes the same here`, async () => {
      const there = await other.adapted(await other.base())
      perturb(there)
      const folder = memoryFolder()
      await saveAdapter(there, folder)
      const { model: here } = await load(await base(), folder)
      close(await toyLosses(here), await toyLosses(there), 1e-4, "losses")
    })
  }
}
