/**
 * A communicator between threads over one SharedArrayBuffer. Sums are made in the order of ranks, a stretch of each by each thread, so that
 * all get the same bits. Nobody spins and nobody blocks: waiting threads sleep or go on with their events. Must not know how threads are
 * started.
 */
import { type Communicator, PeftError } from "@peftjs/core"

type Values = Float32Array | Float64Array

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
  const places = (like: Values): Values[] =>
    Array.from({ length: size + 1 }, (_, r) => {
      const at = controlBytes + 8 * chunk * r
      return like instanceof Float64Array ? new Float64Array(memory, at, chunk) : new Float32Array(memory, at, chunk)
    })
  return {
    rank,
    size,
    async allReduce(buffers) {
      if (size === 1) return
      for (const load of loadsOf(buffers)) {
        const slots = places(load.like)
        const total = slots.pop() as Values
        for (const { values, at } of load.spans) slots[rank]?.set(values, at)
        await together()
        sum(slots, total, Math.floor((load.n * rank) / size), Math.floor((load.n * (rank + 1)) / size))
        await together()
        for (const { values, at } of load.spans) values.set(total.subarray(at, at + values.length))
      }
    },
    async broadcast(buffers) {
      if (size === 1) return
      for (const load of loadsOf(buffers)) {
        const total = places(load.like).pop() as Values
        if (rank === 0) for (const { values, at } of load.spans) total.set(values, at)
        await together()
        if (rank !== 0) for (const { values, at } of load.spans) values.set(total.subarray(at, at + values.length))
        await together()
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

/** What is exchanged at a time: stretches of buffers of one type, one behind the other. Meeting takes longer than adding up what a small layer has. */
interface Load {
  readonly like: Values
  readonly spans: { readonly values: Values; readonly at: number }[]
  n: number
}

function loadsOf(buffers: readonly Values[]): Load[] {
  const loads: Load[] = []
  for (const buffer of buffers) {
    for (let from = 0; from < buffer.length; ) {
      let load = loads.at(-1)
      if (!load || load.n === chunk || load.like.BYTES_PER_ELEMENT !== buffer.BYTES_PER_ELEMENT) {
        load = { like: buffer, spans: [], n: 0 }
        loads.push(load)
      }
      const n = Math.min(chunk - load.n, buffer.length - from)
      load.spans.push({ values: buffer.subarray(from, from + n), at: load.n })
      load.n += n
      from += n
    }
  }
  return loads
}

function sum(slots: readonly Values[], total: Values, from: number, to: number): void {
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
