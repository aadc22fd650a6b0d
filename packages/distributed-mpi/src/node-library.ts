/** Finds the MPI that this process was started by, and calls it through koffi. Must not know communicators or training. */
import { existsSync, fstatSync, realpathSync } from "node:fs"
import { delimiter, dirname, join } from "node:path"
import { PeftError } from "@peftjs/core"
import koffi from "koffi"
import { type Abi, abiOf, type Handle } from "./constants.ts"

/** The functions that are used, with constants filled in. All block; each checks what MPI returns. */
export interface MpiLibrary {
  /** Path or name, and what it calls itself. */
  readonly path: string
  readonly version: string
  readonly abi: Abi
  readonly rank: number
  readonly size: number
  allReduce(buffer: Float32Array | Float64Array): void
  broadcast(buffer: Float32Array | Float64Array): void
  barrier(): void
  finalize(): void
  /** Ends every rank; does not return. */
  abort(code: number): void
}

type Library = ReturnType<typeof koffi.load>

/**
 * Loads and initialises MPI. `choice` is a path, or undefined to search: beside the launcher, then by the names systems have. What `env` does
 * not say of UCX is set there, for it to read.
 * Throws E_MPI where there is none, where it is of no known kind, and where a call fails.
 */
export function loadMpi(choice: string | undefined, env: NodeJS.ProcessEnv = process.env): MpiLibrary {
  for (const [name, value] of Object.entries(ucx)) env[name] ??= value
  const tried: string[] = []
  for (const path of choice ? [choice] : candidates(env)) {
    let library: Library
    try {
      library = koffi.load(path, { global: true })
    } catch (error) {
      tried.push(`${path}: ${error instanceof Error ? error.message : error}`)
      continue
    }
    return initialise(library, path, env)
  }
  throw new PeftError(
    "E_MPI",
    `[distributed-mpi] no MPI library can be loaded (${tried.join("; ")}); install MPICH or Open MPI, or name the library of your mpirun by PEFT_MPI`,
  )
}

/**
 * Read by UCX, which carries messages for MPICH and Open MPI. It rewrites the code of malloc's neighbours (mmap, brk …) so as to see memory come
 * and go, while the engine's other threads are in them: every tenth process or so then ended with a broken heap. And it takes over the signal by
 * which WebAssembly notices an address that is out of bounds.
 */
const ucx = { UCX_MEM_EVENTS: "no", UCX_ERROR_SIGNALS: "SIGILL,SIGBUS,SIGFPE" }

/** The launcher's own library first: another one would make each rank a job of its own. */
function candidates(env: NodeJS.ProcessEnv): string[] {
  const mac = process.platform === "darwin"
  const openMpi = mac ? ["libmpi.40.dylib"] : ["libmpi.so.40"]
  const mpich = mac ? ["libmpi_abi.1.dylib", "libmpi.12.dylib"] : ["libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12"]
  const open = env.OMPI_COMM_WORLD_SIZE !== undefined
  const names = [...(open ? [openMpi, mpich] : [mpich, openMpi]).flat(), mac ? "libmpi.dylib" : "libmpi.so"]
  const beside = (env.PATH ?? "")
    .split(delimiter)
    .filter((bin) => bin !== "" && (existsSync(join(bin, "mpiexec")) || existsSync(join(bin, "mpirun"))))
    .flatMap((bin) => [bin, dirname(realpathSync(join(bin, existsSync(join(bin, "mpiexec")) ? "mpiexec" : "mpirun")))])
    .flatMap((bin) => names.map((name) => join(bin, "..", "lib", name)))
    .filter((path) => existsSync(path))
  return [...new Set([...beside, ...names])]
}

function initialise(library: Library, path: string, env: NodeJS.ProcessEnv): MpiLibrary {
  const wrong = (why: string): PeftError =>
    new PeftError("E_MPI", `[distributed-mpi] ${path} ${why}; name the library of your mpirun by PEFT_MPI`)
  const bind = (name: string, args: readonly string[]): ((...args: unknown[]) => void) => {
    let call: (...args: unknown[]) => number
    try {
      call = library.func(name, "int", [...args])
    } catch {
      throw wrong(`has no ${name}: it is no MPI`)
    }
    return (...given) => {
      const code = call(...given)
      if (code !== 0) throw wrong(`answers ${name} with error ${code}`)
    }
  }
  const text = Buffer.alloc(8192)
  const length = [0]
  bind("MPI_Get_library_version", ["_Out_ uint8_t *", "_Out_ int *"])(text, length)
  const version =
    text
      .toString("latin1", 0, length[0])
      .split("\n")[0]
      ?.replace(/[\0\s]+/g, " ")
      .trim() ?? ""
  const abi = abiOf(version, path)
  if (!abi)
    throw wrong(
      `calls itself ${JSON.stringify(version)}, whose binary interface is not known; MPICH, Open MPI and MPI-5's are`,
    )
  const value = (handle: Handle): number | bigint =>
    typeof handle === "number" ? handle : koffi.address(library.symbol(handle.symbol, "char"))
  const [world, float, double, sum] = [abi.world, abi.float, abi.double, abi.sum].map(value)
  requirePipe(env)
  bind("MPI_Init_thread", ["void *", "void *", "int", "_Out_ int *"])(null, null, abi.funneled, [0])
  const number = (name: string): number => {
    const out = [0]
    bind(name, ["intptr_t", "_Out_ int *"])(world, out)
    return out[0] as number
  }
  const reduce = bind("MPI_Allreduce", ["intptr_t", "void *", "int", "intptr_t", "intptr_t", "intptr_t"])
  const broadcast = bind("MPI_Bcast", ["void *", "int", "intptr_t", "int", "intptr_t"])
  const barrier = bind("MPI_Barrier", ["intptr_t"])
  const finalize = bind("MPI_Finalize", [])
  const abort = bind("MPI_Abort", ["intptr_t", "int"])
  const typeOf = (buffer: Float32Array | Float64Array): number | bigint | undefined =>
    buffer instanceof Float64Array ? double : float
  return {
    ...{ path, version, abi, rank: number("MPI_Comm_rank"), size: number("MPI_Comm_size") },
    allReduce: (buffer) => reduce(abi.inPlace, buffer, buffer.length, typeOf(buffer), sum, world),
    broadcast: (buffer) => broadcast(buffer, buffer.length, typeOf(buffer), 0, world),
    barrier: () => barrier(world),
    finalize: () => finalize(),
    abort: (code) => abort(world, code),
  }
}

/**
 * MPICH's launcher hands each rank an open pipe, which programs in between, such as npx, close. The library would end the process without a
 * word about it.
 */
function requirePipe({ PMI_FD: pipe }: NodeJS.ProcessEnv): void {
  if (pipe === undefined) return
  try {
    if (fstatSync(Number(pipe)).isSocket()) return
  } catch {
    // Told below.
  }
  throw new PeftError(
    "E_MPI",
    "[distributed-mpi] the launcher's pipe (PMI_FD) is closed: npx and other programs in between do that. Start the command as `mpirun -pmi-port -n … npx peft …`, or `mpirun -n … node node_modules/@peftjs/cli/bin/peft.js …`",
  )
}
