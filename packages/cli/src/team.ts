/**
 * Who trains together: threads of this process, or the ranks of an mpirun. Each runs the whole command; all but the leader are silent and
 * write nothing. Must not know training.
 */
import { readdirSync, statSync } from "node:fs"
import { availableParallelism } from "node:os"
import { join } from "node:path"
import { alone, type Communicator, PeftError } from "@peftjs/core"
import { replica, startReplicas } from "@peftjs/distributed-threads/node"
import type { FileSource } from "@peftjs/safetensors"
import { type Command, Option } from "commander"
import type { BackendName } from "./backend.ts"
import { whole } from "./options.ts"
import { type SharedRanges, sharedFiles } from "./shared-files.ts"

export interface TeamFlags {
  /** Threads that share the rows of a step. */
  readonly replicas?: number
  readonly distributed?: "threads" | "mpi"
}

/** Adds the options. */
export function teamOptions(command: Command): Command {
  return command
    .addOption(
      whole(
        "--replicas <n>",
        "threads that share the rows of every step (default: one per processor where the batch has a row for each and the base is frozen)",
        { min: 1 },
      ),
    )
    .addOption(
      new Option(
        "--distributed <how>",
        "threads: one replica per core; mpi: the ranks that mpirun has started",
      ).choices(["threads", "mpi"]),
    )
}

export interface Team {
  /** Whether this one writes files and speaks. */
  readonly leads: boolean
  readonly size: number
  /** Of them, threads of this process, and whether those have one copy of the base. */
  readonly here: number
  readonly oneBase: boolean
  /** How many threads of this machine each may compute with. */
  readonly threads: number
  /** Files of the base: read once for all that share this process's memory. */
  through(files: FileSource): FileSource
  /** When the base has been read. The leader of threads starts the others now. */
  join(): Communicator
  /** Ends the others at once. */
  stop(): Promise<void>
}

/** What is to be trained, by which it is decided whether threads pay. */
export interface Work {
  readonly backend: BackendName
  /** Rows of a forward pass. */
  readonly batchSize: number
  /** Of the base. */
  readonly folder: string
  /** Whether the base is kept as it is read: it then exists once for all threads. */
  readonly asStored: boolean
  /** Whether the base itself is trained: every replica would then have its own, with the optimizer's averages, and exchange all of its gradients. */
  readonly trainsBase: boolean
}

/** Ranks of this machine, as launchers tell. */
const localSizes = ["OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"]

/** Throws E_OPTION where the flags contradict each other, E_MPI. */
export async function teamOf(flags: TeamFlags, work: Work): Promise<Team> {
  if (flags.distributed === "mpi") {
    if (flags.replicas !== undefined)
      throw new PeftError(
        "E_OPTION",
        "[cli] --replicas counts threads; with --distributed mpi, mpirun -n says how many there are",
      )
    const { mpi } = await import("@peftjs/distributed-mpi/node")
    const local = Number(localSizes.map((name) => process.env[name]).find(Boolean) ?? 1)
    return memberOf(mpi(), Math.max(1, Math.floor(availableParallelism() / local)))
  }
  const given = replica()
  if (given) return memberOf(given.communicator, 1, given.data as SharedRanges | undefined)
  const size = threadsFor(flags, work)
  return size === 1 ? memberOf(alone, availableParallelism()) : leaderOf(size, work.asStored)
}

/** What the estimate of a run is to know of its team, before there is one. */
export function threadTeam(
  flags: TeamFlags & Pick<Work, "backend" | "batchSize" | "trainsBase">,
  source: { readonly folder: string; readonly loading?: unknown },
): Pick<Team, "size" | "here" | "oneBase"> {
  const oneBase = source.loading === undefined
  const size = threadsFor(flags, { ...flags, folder: source.folder, asStored: oneBase })
  return { size, here: size, oneBase }
}

/** How many threads share the rows, where it is threads that do. */
function threadsFor({ replicas, distributed }: TeamFlags, work: Work): number {
  if (distributed === "mpi") return 1
  return replicas ?? (distributed === "threads" || paysOff(work) ? availableParallelism() : 1)
}

/** From this size of a model's files on, a step is longer than what starting threads and joining gradients takes. */
const worthwhileBytes = 100e6

/** A row for every processor, whose threads then never wait for each other inside a product, and little to exchange. */
function paysOff({ backend, batchSize, folder, trainsBase }: Work): boolean {
  const cores = availableParallelism()
  return !trainsBase && backend === "cpu" && cores > 1 && batchSize >= cores && weightBytes(folder) >= worthwhileBytes
}

function weightBytes(path: string): number {
  const found = statSync(path, { throwIfNoEntry: false })
  if (!found?.isDirectory()) return found?.size ?? 0
  const files = readdirSync(path).filter((name) => name.endsWith(".safetensors"))
  return files.reduce((sum, name) => sum + statSync(join(path, name)).size, 0)
}

const unchanged = (files: FileSource): FileSource => files

function memberOf(communicator: Communicator, threads: number, ranges?: SharedRanges): Team {
  return {
    leads: communicator.rank === 0,
    ...{ size: communicator.size, here: 1, oneBase: true, threads },
    through: ranges ? (files) => sharedFiles(files, ranges) : unchanged,
    join: () => communicator,
    stop: async () => {},
  }
}

/** This process's own entry, which runs the source in a clone and what was built elsewhere. */
const command = new URL("../bin/peft.js", import.meta.url)

/** A BLAS has one set of threads for the whole process: threads that call it use one each. */
function leaderOf(size: number, asStored: boolean): Team {
  const ranges: SharedRanges | undefined = asStored ? new Map() : undefined
  let stop = async (): Promise<void> => {}
  return {
    ...{ leads: true, size, here: size, oneBase: asStored, threads: 1 },
    through: ranges ? (files) => sharedFiles(files, ranges) : unchanged,
    join() {
      const started = startReplicas(command, { size, data: ranges })
      stop = started.stop
      return started.communicator
    },
    stop: () => stop(),
  }
}
