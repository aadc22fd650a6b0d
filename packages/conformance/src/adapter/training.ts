/** An adapter learns: twenty steps lower the loss of a toy model, leave nothing behind, and go the same way on every backend. */
import { engineOf } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import { toyStep } from "../toy-training.ts"
import type { Subject } from "./subject.ts"

/** Losses before each of some steps. */
async function curve({ base, adapted }: Subject, steps: number): Promise<number[]> {
  const model = adapted(await base())
  const engine = engineOf(model.backend)
  const [losses, live]: [number[], number[]] = [[], []]
  for (let step = 0; step < steps; step++) {
    losses.push(await toyStep(model, step))
    live.push(engine.liveBuffers)
  }
  check(live.at(-1) === live[1], `${live[1]} buffers after two steps, ${live.at(-1)} after ${steps}`)
  return losses
}

export function trainingChecks(subject: Subject, others: Readonly<Record<string, Subject>>): void {
  const { it } = subject.options
  it("twenty steps lower the loss and leave no buffer behind", async () => {
    const losses = await curve(subject, 20)
    const [first, last] = [losses[0] as number, losses.at(-1) as number]
    check(last < first - 0.01, `the loss went from ${first} to ${last}`)
  })
  it("the same training again gives the same bits", async () => {
    same(await curve(subject, 3), await curve(subject, 3), "losses")
  })
  for (const [name, other] of Object.entries(others)) {
    it(`the curve is that of ${name}`, async () =>
      close(await curve(subject, 10), await curve(other, 10), 1e-3, "losses"))
  }
}
