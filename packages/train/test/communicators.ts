/** Communicators between programs of one process: each call waits until all have made it. */
import type { Communicator } from "@peftjs/core"

type Numbers = Float32Array | Float64Array

/** One for each of `size` programs. What they are given is noted in `calls`. */
export function communicators(size: number, calls: { rank: number; bytes: number }[] = []): Communicator[] {
  let waiting: { readonly buffers: readonly Numbers[]; resolve(): void }[] = []
  /** Rank → what it has given; when all have, `join` works on the buffers of all in the order of ranks. */
  let round = new Map<number, readonly Numbers[]>()
  const meet = (rank: number, buffers: readonly Numbers[], join: (all: readonly (readonly Numbers[])[]) => void) =>
    new Promise<void>((resolve) => {
      round.set(rank, buffers)
      waiting.push({ buffers, resolve })
      if (round.size < size) return
      const all = Array.from({ length: size }, (_, r) => round.get(r) as readonly Numbers[])
      const ready = waiting
      round = new Map()
      waiting = []
      join(all)
      for (const one of ready) one.resolve()
    })
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    allReduce: (buffers) => {
      calls.push({ rank, bytes: buffers.reduce((n, b) => n + b.byteLength, 0) })
      return meet(rank, buffers, (all) => {
        for (const [i, first] of (all[0] as readonly Numbers[]).entries()) {
          const sums = first.map((_, at) => all.reduce((sum, own) => sum + ((own[i] as Numbers)[at] as number), 0))
          for (const own of all) (own[i] as Numbers).set(sums)
        }
      })
    },
    broadcast: (buffers) =>
      meet(rank, buffers, (all) => {
        for (const own of all) for (const [i, b] of own.entries()) b.set((all[0] as readonly Numbers[])[i] as Numbers)
      }),
    barrier: () => meet(rank, [], () => {}),
  }))
}
