/** Gradients of several micro-batches added up, and their norm. Owns what it holds until `free`. */
import type { Communicator, Engine, Tensor, Trainable } from "@peftjs/core"
import { concat, free, hold, noGrad, scope, tensor } from "@peftjs/core"

export interface Gradients {
  /** Takes over the gradients of a micro-batch. */
  add(gradients: ReadonlyMap<Tensor, Tensor>): void
  /** What has been added up for a parameter; undefined when nothing reached it. */
  of(parameter: Tensor): Tensor | undefined
  /** Adds up those of all replicas; a parameter that any of them has reached is reached in all. */
  reduce(communicator: Communicator): Promise<void>
  /** √Σg² over everything, 0 when there is nothing. */
  norm(): Promise<number>
  free(): void
}

/** An empty sum for the given parameters; gradients of others are let go. */
export function sumGradients(engine: Engine, trainables: readonly Trainable[]): Gradients {
  const wanted = new Set(trainables.map((t) => t.tensor))
  const sums = new Map<Tensor, Tensor>()
  return {
    add(gradients) {
      noGrad(engine, () =>
        scope(engine, () => {
          for (const [parameter, gradient] of gradients) {
            const before = sums.get(parameter)
            if (!wanted.has(parameter)) free(gradient)
            else if (!before) sums.set(parameter, gradient)
            else {
              sums.set(parameter, hold(before.add(gradient)))
              free(before)
              free(gradient)
            }
          }
        }),
      )
    },
    of: (parameter) => sums.get(parameter),
    async reduce(communicator) {
      if (communicator.size === 1) return
      const reached = Float64Array.from(trainables, ({ tensor }) => Number(sums.has(tensor)))
      await communicator.allReduce([reached])
      const shared = trainables.map(({ tensor }) => tensor).filter((_, i) => (reached[i] as number) > 0)
      const buffers = await Promise.all(
        shared.map(async (t) => ((await sums.get(t)?.data()) ?? new Float32Array(t.size)) as Float32Array),
      )
      await communicator.allReduce(buffers)
      for (const [i, parameter] of shared.entries()) {
        const total = scope(engine, () => hold(tensor(engine.backend, buffers[i] as Float32Array, parameter.shape)))
        const own = sums.get(parameter)
        if (own) free(own)
        sums.set(parameter, total)
      }
    },
    async norm() {
      if (sums.size === 0) return 0
      // One copy to the host for all parameters; the last sum is in f64.
      const squares = noGrad(engine, () =>
        scope(engine, () => {
          const each = [...sums.values()].map((g) => scope(engine, () => g.square().sum().reshape([1])))
          return hold(concat(each, 0))
        }),
      )
      try {
        return Math.sqrt(((await squares.data()) as Float32Array).reduce((total, x) => total + x, 0))
      } finally {
        free(squares)
      }
    },
    free() {
      for (const gradient of sums.values()) free(gradient)
      sums.clear()
    },
  }
}
