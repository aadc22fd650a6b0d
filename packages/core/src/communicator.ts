/**
 * Replicas of one program that train together: each runs the same steps on sequences of its own, and a communicator joins what they found.
 * All call the same functions in the same order with buffers of the same lengths. Must not know models, methods or backends.
 */

export interface Communicator {
  /** 0…size-1. Rank 0 writes files and speaks to people. */
  readonly rank: number
  readonly size: number
  /** Sums over all replicas, in place; everybody gets the same bits. */
  allReduce(buffers: readonly (Float32Array | Float64Array)[]): Promise<void>
  /** Everybody gets what rank 0 has. */
  broadcast(buffers: readonly (Float32Array | Float64Array)[]): Promise<void>
  /** Resolves when all have come so far. */
  barrier(): Promise<void>
}

const nothing = async (): Promise<void> => {}

/** The communicator of a program that has no replicas. */
export const alone: Communicator = { rank: 0, size: 1, allReduce: nothing, broadcast: nothing, barrier: nothing }
