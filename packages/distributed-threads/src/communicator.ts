/**
 * A communicator between threads over one SharedArrayBuffer. Sums are made in the order of ranks, a stretch of each by each thread, so that
 * all get the same bits. Nobody spins and nobody blocks: waiting threads sleep or go on with their events. Must not know how threads are
 * started.
 */
import { type Communicator, PeftError } from "@peftjs/core"

/** Values of each thread that are exchanged at a time. */
const chunk = 2 ** 17

/** Words of the shared memory before the values. */
const control = { arrived: 0, round: 1, lost: 2 } as const
const controlBytes = 64

/** What the threads of a job share: made once, given to each. */
export interface SharedJob {
  readonly memory: SharedArrayBuffer
  readonly size: number
}

/** Throws E_OPTION (size), and what a place without shared memory throws: a page needs cross-origin isolation. */
export function sharedJob(size: number): SharedJob {
  if (!Number.isSafeInteger(size) || size < 1)
    throw new PeftError("E_OPTION", `[distributed-threads] size is ${size}; it must be a whole number of at least 1`)
  return { memory: new SharedArrayBuffer(controlBytes + 8 * chunk * (size + 1)), size }
}

/** The job as one of its threads sees it. Throws E_OPTION where the rank is not 0…size-1; its functions throw E_REPLICA_LOST. */
export function threadCommunicator({ memory, size }: SharedJob, rank: number): Communicator {
  if (!Number.isSafeInteger(rank) || rank < 0 || rank >= size)
    throw new PeftError("E_OPTION", `[distributed-threads] rank is ${rank}; it must be 0 to ${size - 1}`)
  const words = new Int32Array(memory, 0, controlBytes / 4)
  const together = (): Promise<void> => meet(words, size)
  /** Each thread's values, and after them the result. */
  const places = <T extends Float32Array | Float64Array>(like: T): T[] =>
    Array.from({ length: size + 1 }, (_, r) => {
      const at = controlBytes + 8 * chunk * r
      return (
        like instanceof Float64Array ? new Float64Array(memory, at, chunk) : new Float32Array(memory, at, chunk)
      ) as T
    })
  return {
    rank,
    size,
    async allReduce(buffers) {
      if (size === 1) return
      for (const buffer of buffers) {
        const slots = places(buffer)
        const total = slots.pop() as typeof buffer
        for (const [from, n] of pieces(buffer.length)) {
          slots[rank]?.set(buffer.subarray(from, from + n))
          await together()
          sum(slots, total, Math.floor((n * rank) / size), Math.floor((n * (rank + 1)) / size))
          await together()
          buffer.set(total.subarray(0, n), from)
        }
      }
    },
    async broadcast(buffers) {
      if (size === 1) return
      for (const buffer of buffers) {
        const total = places(buffer).pop() as typeof buffer
        for (const [from, n] of pieces(buffer.length)) {
          if (rank === 0) total.set(buffer.subarray(from, from + n))
          await together()
          if (rank !== 0) buffer.set(total.subarray(0, n), from)
          await together()
        }
      }
    },
    barrier: async () => (size === 1 ? undefined : together()),
  }
}

/** Wakes whoever waits for a thread that is gone, and fails every later call. */
export function loseReplica({ memory }: SharedJob): void {
  const words = new Int32Array(memory, 0, controlBytes / 4)
  Atomics.store(words, control.lost, 1)
  Atomics.add(words, control.round, 1)
  Atomics.notify(words, control.round)
}

function pieces(length: number): [from: number, n: number][] {
  return Array.from({ length: Math.ceil(length / chunk) }, (_, i) => [i * chunk, Math.min(chunk, length - i * chunk)])
}

function sum(
  slots: readonly (Float32Array | Float64Array)[],
  total: Float32Array | Float64Array,
  from: number,
  to: number,
): void {
  for (let i = from; i < to; i++) {
    let value = 0
    for (const slot of slots) value += slot[i] as number
    total[i] = value
  }
}

/** The last to arrive wakes the others. */
async function meet(words: Int32Array, size: number): Promise<void> {
  const round = Atomics.load(words, control.round)
  requireAll(words)
  if (Atomics.add(words, control.arrived, 1) === size - 1) {
    Atomics.store(words, control.arrived, 0)
    Atomics.add(words, control.round, 1)
    Atomics.notify(words, control.round)
    return
  }
  // Waiting alone does not keep a Node process alive.
  const alive = setInterval(() => {}, 2 ** 30)
  try {
    while (Atomics.load(words, control.round) === round) await waitFor(words, round)
  } finally {
    clearInterval(alive)
  }
  requireAll(words)
}

interface WaitAsync {
  waitAsync(words: Int32Array, index: number, value: number): { readonly value: string | Promise<string> }
}

async function waitFor(words: Int32Array, round: number): Promise<void> {
  await (Atomics as unknown as WaitAsync).waitAsync(words, control.round, round).value
}

function requireAll(words: Int32Array): void {
  if (Atomics.load(words, control.lost) === 0) return
  throw new PeftError(
    "E_REPLICA_LOST",
    "[distributed-threads] another replica has ended; the run stops, and its last checkpoint is kept: continue with --resume (the option resume)",
  )
}
