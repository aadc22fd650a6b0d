/**
 * Starts the replicas of a Node program: the thread that asks is rank 0, workers run a module of the caller's for the others. Must not know
 * training or the command line.
 */
import { once } from "node:events"
import { isMainThread, Worker, workerData } from "node:worker_threads"
import type { Communicator } from "@peftjs/core"
import { loseReplica, type SharedJob, sharedJob, threadCommunicator } from "./communicator.ts"

export * from "./index.ts"

export interface Replicas {
  /** Of rank 0. */
  readonly communicator: Communicator
  /** Resolves when all workers have ended well; rejects with the first one's error. */
  readonly done: Promise<void>
  /** Ends the workers at once. */
  stop(): Promise<void>
}

export interface ReplicaOptions {
  /** Replicas in all, with the one that asks. */
  readonly size: number
  /** What workers find as `argv` and `env`; the asking thread's unless told otherwise. */
  readonly argv?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  /** What `replica()` gives to workers: anything that can be sent to one; shared memory is shared. */
  readonly data?: unknown
}

/** Of short-lived objects in a worker: what a training makes of them dies at once, and V8 would let it grow to 48. */
const youngMegabytes = 8

interface Given {
  readonly replica: SharedJob & { readonly rank: number; readonly data: unknown }
}

/**
 * Runs `module` in size - 1 workers. It takes its place with `replica()`. A worker that fails ends the whole: rank 0's next call rejects with
 * E_REPLICA_LOST, and `done` with what it threw.
 */
export function startReplicas(
  module: URL,
  { size, argv = process.argv.slice(2), env, data }: ReplicaOptions,
): Replicas {
  const job = sharedJob(size)
  const workers = Array.from({ length: size - 1 }, (_, i) => {
    const given: Given = { replica: { ...job, rank: i + 1, data } }
    return new Worker(module, {
      argv: [...argv],
      workerData: given,
      resourceLimits: { maxYoungGenerationSizeMb: youngMegabytes },
      ...(env ? { env } : {}),
    })
  })
  const ends = workers.map(async (worker) => {
    try {
      // Rejects with the worker's uncaught error.
      const [code] = (await once(worker, "exit")) as [number]
      if (code !== 0) throw new Error(`a replica ended with exit code ${code}`)
    } catch (error) {
      loseReplica(job)
      throw error
    }
  })
  const done = Promise.all(ends).then(() => {})
  // Whoever never asks need not be told by a crash: the communicator tells.
  done.catch(() => {})
  return {
    communicator: threadCommunicator(job, 0),
    done,
    stop: async () => void (await Promise.all(workers.map((worker) => worker.terminate()))),
  }
}

/** In a worker that `startReplicas` has started: its communicator and what it was given; elsewhere undefined. */
export function replica(): { readonly communicator: Communicator; readonly data: unknown } | undefined {
  const given = isMainThread ? undefined : (workerData as Partial<Given> | null)?.replica
  return given && { communicator: threadCommunicator(given, given.rank), data: given.data }
}
