/** Which library is which, and what is said where there is none. Real ones are tried where they are installed, with `mpirun`. */
import { describe, expect, it } from "vitest"
import { abiOf, mpichAbi, openMpiAbi, standardAbi } from "../src/constants.ts"
import { loadMpi } from "../src/node-library.ts"

describe("constants are chosen by what a library calls itself", () => {
  it.each([
    ["MPICH Version: 5.0.2", "/x/libmpi_abi.so.1", standardAbi],
    ["MPICH Version:      4.0.2 MPICH Release date: Thu Apr  7", "libmpi.so.12", mpichAbi],
    ["Intel(R) MPI Library 2021.11 for Linux* OS", "libmpi.so.12", mpichAbi],
    ["Open MPI v4.1.4, package: Debian OpenMPI", "libmpi.so.40", openMpiAbi],
    ["Open MPI v5.0.11", "/y/libmpi_abi.so.1", standardAbi],
    ["Some other MPI 1.0", "libmpi.so", undefined],
  ])("%s at %s", (version, path, abi) => {
    expect(abiOf(version, path)).toBe(abi)
  })
})

it("a path with nothing behind it is E_MPI, naming it and what to do", () => {
  expect(() => loadMpi("/nowhere/libmpi.so", {})).toThrow(/nowhere.*PEFT_MPI.*E_MPI/s)
})

it("a library that is no MPI is E_MPI, before anything is called", () => {
  const other = process.platform === "darwin" ? "libSystem.dylib" : "libm.so.6"
  expect(() => loadMpi(other, {})).toThrow(/has no MPI_Get_library_version.*E_MPI/s)
})

it("UCX is told to leave malloc and WebAssembly's signal alone, unless the environment says otherwise", () => {
  const env: NodeJS.ProcessEnv = { UCX_ERROR_SIGNALS: "SIGFPE" }
  expect(() => loadMpi("/nowhere/libmpi.so", env)).toThrow()
  expect(env).toEqual({ UCX_ERROR_SIGNALS: "SIGFPE", UCX_MEM_EVENTS: "no" })
})
