/**
 * Several trainings that do their steps in turn, so that whatever else the machine is doing slows all of them alike: what a comparison of
 * times needs. Must not know what is trained.
 */

export interface Turns {
  /** Resolves when it is the turn of this one. */
  take(one: number): Promise<void>
  /** Gives the turn to the next that still takes part. */
  pass(): void
  /** Takes part no longer, and gives the turn away. */
  leave(one: number): void
}

/** Turns of `count` runs; the first one's comes first. */
export function makeTurns(count: number): Turns {
  const waiting = new Map<number, () => void>()
  const gone = new Set<number>()
  let turn = 0
  const pass = (): void => {
    if (gone.size === count) return
    do turn = (turn + 1) % count
    while (gone.has(turn))
    waiting.get(turn)?.()
  }
  return {
    take: (one) =>
      one === turn
        ? Promise.resolve()
        : new Promise((resolve) => {
            waiting.set(one, () => {
              waiting.delete(one)
              resolve()
            })
          }),
    pass,
    leave(one) {
      gone.add(one)
      pass()
    },
  }
}

/** Runs `run` once per item; each calls `next` between its steps, which resolves when it may go on. Rejects with the first error. */
export async function inTurn<T>(
  items: readonly T[],
  run: (item: T, next: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const turns = makeTurns(items.length)
  await Promise.all(
    items.map(async (item, i) => {
      await turns.take(i)
      await run(item, () => {
        turns.pass()
        return turns.take(i)
      })
      turns.leave(i)
    }),
  )
}
