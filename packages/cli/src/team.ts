/**
 * Who trains together: threads of this process, or the ranks of an mpirun. Each runs the whole command; all but the leader are silent and
 * write nothing. Must not know training.
 */
import { availableParallelism } from "node:os"
import { alone, type Communicator, PeftError } from "@peftjs/core"
import { replica, startReplicas } from "@peftjs/distributed-threads/node"
import type { FileSource } from "@peftjs/safetensors"
import { type SharedRanges, sharedFiles } from "./shared-files.ts"

export interface TeamFlags {
  /** Threads that share the rows of a step. */
  readonly replicas?: number
  readonly distributed?: "threads" | "mpi"
}

export interface Team {
  /** Whether this one writes files and speaks. */
  readonly leads: boolean
  readonly size: number
  /** How many threads of this machine each may compute with. */
  readonly threads: number
  /** Files of the base: read once for all that share this process's memory. */
  through(files: FileSource): FileSource
  /** When the base has been read. The leader of threads starts the others now. */
  join(): Communicator
  /** Ends the others at once. */
  stop(): Promise<void>
}

/** Ranks of this machine, as launchers tell. */
const localSizes = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"]

/** Throws E_OPTION where the flags contradict each other, E_MPI. */
export async function teamOf({ replicas, distributed }: TeamFlags): Promise<Team> {
  if (distributed === "mpi") {
    if (replicas !== undefined)
      throw new PeftError(
        "E_OPTION",
        "[cli] --replicas counts threads; with --distributed mpi, mpirun -n says how many there are",
      )
    const { mpi } = await import("@peftjs/distributed-mpi/node")
    return memberOf(mpi(), Number(localSizes.map((name) => process.env[name]).find(Boolean) ?? 1))
  }
  const given = replica()
  if (given) return memberOf(given.communicator, given.communicator.size, given.data as SharedRanges)
  const size = replicas ?? (distributed === "threads" ? availableParallelism() : 1)
  return size === 1 ? memberOf(alone, 1) : leaderOf(size)
}

const unchanged = (files: FileSource): FileSource => files
const threadsOf = (local: number): number => Math.max(1, Math.floor(availableParallelism() / local))

function memberOf(communicator: Communicator, local: number, ranges?: SharedRanges): Team {
  return {
    leads: communicator.rank === 0,
    size: communicator.size,
    threads: threadsOf(local),
    through: ranges ? (files) => sharedFiles(files, ranges) : unchanged,
    join: () => communicator,
    stop: async () => {},
  }
}

/** This process's own entry, which runs the source in a clone and what was built elsewhere. */
const command = new URL("../bin/peft.js", import.meta.url)

function leaderOf(size: number): Team {
  const ranges: SharedRanges = new Map()
  let stop = async (): Promise<void> => {}
  return {
    ...{ leads: true, size, threads: threadsOf(size) },
    through: (files) => sharedFiles(files, ranges),
    join() {
      const started = startReplicas(command, { size, data: ranges })
      stop = started.stop
      return started.communicator
    },
    stop: () => stop(),
  }
}
