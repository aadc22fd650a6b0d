/**
 * A communicator over MPI: `mpirun -n 4 node train.js` makes four replicas, on one machine or many. Node waits inside MPI's calls, which are
 * short beside a training step. Must not know models or training.
 */
import { type Communicator, PeftError } from "@peftjs/core"
import { loadMpi } from "./node-library.ts"

export interface MpiOptions {
  /** Path of the MPI library; default: the environment variable PEFT_MPI, else the launcher's. */
  readonly library?: string
}

export interface MpiCommunicator extends Communicator {
  /** What computes the sums: "MPICH Version: 5.0.2", and by which binary interface. */
  readonly info: { readonly library: string; readonly version: string; readonly abi: string }
  /** Ends the job on every rank at once, with this exit code: for a rank that cannot go on while others wait for it. */
  abort(code: number): void
}

let joined: MpiCommunicator | undefined

/**
 * Joins the job that `mpirun` (or srun …) started this process in; without a launcher it is one of size 1. Leaves it when the process ends
 * well. One for each process: MPI cannot be started twice.
 * Throws E_MPI when no library is found, when it is of no known kind, or when a call fails.
 */
export function mpi({ library = process.env.PEFT_MPI }: MpiOptions = {}): MpiCommunicator {
  joined ??= join(library)
  return joined
}

function join(library: string | undefined): MpiCommunicator {
  const { rank, size, abi, version, path, ...calls } = loadMpi(library || undefined)
  requireLauncher(size)
  // A process that ends without this is taken for a lost one.
  process.once("exit", (code) => {
    if (code === 0) calls.finalize()
    else if (size > 1) calls.abort(code)
  })
  return {
    ...{ rank, size, info: { library: path, version, abi: abi.name } },
    async allReduce(buffers) {
      for (const buffer of buffers) calls.allReduce(buffer)
    },
    async broadcast(buffers) {
      for (const buffer of buffers) calls.broadcast(buffer)
    },
    barrier: async () => calls.barrier(),
    abort: calls.abort,
  }
}

/** How many ranks a launcher says it has started, by what it leaves in the environment. */
const sizes = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "SLURM_NTASKS"]

/** A library of another MPI than the launcher's finds itself alone: every rank would train the whole. */
function requireLauncher(size: number): void {
  const name = sizes.find((variable) => Number(process.env[variable]) > 1)
  if (size > 1 || name === undefined || name === "SLURM_NTASKS") return
  throw new PeftError(
    "E_MPI",
    `[distributed-mpi] the launcher says ${name}=${process.env[name]}, and the library found finds itself alone; name the library of that mpirun by PEFT_MPI`,
  )
}
