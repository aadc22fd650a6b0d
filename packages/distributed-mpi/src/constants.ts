/**
 * What the names of the MPI standard are in each library's binary interface. A wrong one is no error code but a broken heap, so a library
 * that is none of these is refused. Must not know how libraries are loaded.
 */

/** Handles are numbers, or the addresses of what the library exports under a name. */
export type Handle = number | { readonly symbol: string }

export interface Abi {
  readonly name: string
  readonly world: Handle
  readonly float: Handle
  readonly double: Handle
  readonly sum: Handle
  /** Stands for the send buffer where sums replace it. */
  readonly inPlace: number
  readonly funneled: number
}

/** The standard binary interface of MPI 5 (`libmpi_abi`, mpi_abi.h), the same for every implementation. */
export const standardAbi: Abi = {
  name: "MPI-5 ABI",
  ...{ world: 0x101, float: 0x210, double: 0x214, sum: 0x21, inPlace: 1, funneled: 1024 },
}

/** MPICH and what follows its binary interface: Intel MPI, MVAPICH, Cray (mpi.h of MPICH 4 and 5). */
export const mpichAbi: Abi = {
  name: "MPICH",
  ...{ world: 0x44000000, float: 0x4c00040a, double: 0x4c00080b, sum: 0x58000003, inPlace: -1, funneled: 1 },
}

/** Open MPI 4 and 5, where handles are addresses. */
export const openMpiAbi: Abi = {
  name: "Open MPI",
  world: { symbol: "ompi_mpi_comm_world" },
  float: { symbol: "ompi_mpi_float" },
  double: { symbol: "ompi_mpi_double" },
  sum: { symbol: "ompi_mpi_op_sum" },
  ...{ inPlace: 1, funneled: 1 },
}

/** By what MPI_Get_library_version says; undefined for a library whose constants are not known. */
export function abiOf(version: string, path: string): Abi | undefined {
  if (/libmpi_abi\b/.test(path)) return standardAbi
  if (/\bOpen MPI\b/.test(version)) return openMpiAbi
  return /\b(MPICH|Intel\(R\) MPI|MVAPICH|CRAY MPICH)\b/i.test(version) ? mpichAbi : undefined
}
