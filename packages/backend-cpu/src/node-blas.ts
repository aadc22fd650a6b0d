/**
 * Loads a BLAS through koffi and trusts it only after known products came out right.
 * koffi is an optional dependency: without it there is no BLAS and WebAssembly multiplies.
 */
import { readFileSync } from "node:fs"
import { availableParallelism, cpus } from "node:os"
import { PeftError } from "@peftjs/core"
import type { Gemm } from "./gemm.ts"
import { blasGemm, type Sgemm } from "./gemm-blas.ts"
import { selfTest } from "./gemm-self-test.ts"
import { blasCandidates } from "./node-blas-search.ts"

export interface Blas {
  readonly gemm: Gemm
  readonly library: string
  /** The kernels that OpenBLAS chose. */
  readonly core?: string
  readonly threads?: number
}

type Koffi = typeof import("koffi")["default"]
type Library = ReturnType<Koffi["load"]>

/** Plain, PyPI's prefix; each with 32-bit and with 64-bit integers (suffix). */
const sgemmNames = [
  ["cblas_sgemm", "int"],
  ["scipy_cblas_sgemm", "int"],
  ["cblas_sgemm64_", "int64_t"],
  ["scipy_cblas_sgemm64_", "int64_t"],
] as const

const rowMajor = 101
const noTranspose = 111
const transpose = 112

/**
 * Finds, loads and tests a BLAS. `choice` is "off", a path or name, or undefined to search.
 * Returns undefined if searching finds none; throws E_BLAS if a named one is missing, lacks sgemm or multiplies wrongly.
 */
export async function findBlas(
  choice: string | undefined,
  threads: number = availableParallelism(),
  env: NodeJS.ProcessEnv = process.env,
): Promise<Blas | undefined> {
  if (choice === "off") return undefined
  const named = choice !== undefined && choice !== ""
  const koffi = await import("koffi").then(
    (module) => module.default,
    (cause: unknown) => {
      if (!named) return undefined
      throw new PeftError(
        "E_BLAS",
        `[backend-cpu] BLAS ${choice} needs the npm package koffi, which cannot be loaded`,
        {
          cause,
        },
      )
    },
  )
  if (koffi === undefined) return undefined
  const coreType = openblasCore()
  // Assigned, not merely defaulted: OpenBLAS reads it once while it is loaded, and a wrong inherited value halves the speed.
  if (coreType !== undefined) env.OPENBLAS_CORETYPE = coreType
  if (named) return load(koffi, choice, threads)
  for (const candidate of blasCandidates(env, process.platform, cpus()[0]?.model ?? "")) {
    try {
      return load(koffi, candidate, threads)
    } catch {
      // Not there or not usable: the next one may be.
    }
  }
  return undefined
}

function load(koffi: Koffi, path: string, count: number): Blas {
  let library: Library
  try {
    library = koffi.load(path)
  } catch (cause) {
    throw new PeftError(
      "E_BLAS",
      `[backend-cpu] the BLAS ${path} cannot be loaded (${String(cause)}); give the path of a shared library, or "off"`,
      { cause },
    )
  }
  const core = firstFunction(library, ["openblas_get_corename"], "const char *", [])?.() as string | undefined
  const set = firstFunction(library, ["openblas_set_num_threads", "MKL_Set_Num_Threads"], "void", ["int"])
  const sgemm = sgemmOf(koffi, library, path)
  const gemm = blasGemm(set === undefined ? sgemm : threaded(sgemm, set, count))
  const wrong = selfTest(gemm)
  if (wrong !== undefined) {
    throw new PeftError(
      "E_BLAS",
      `[backend-cpu] the BLAS ${path} multiplies wrongly: ${wrong}; use another one or "off"`,
    )
  }
  return {
    gemm,
    library: path,
    ...(core === undefined ? {} : { core }),
    ...(set === undefined ? {} : { threads: count }),
  }
}

function sgemmOf(koffi: Koffi, library: Library, path: string): Sgemm {
  for (const [name, int] of sgemmNames) {
    let sgemm: (...args: unknown[]) => void
    try {
      sgemm = library.func(name, "void", [
        ...["int", "int", "int"],
        ...[int, int, int],
        ...["float", "intptr_t", int, "intptr_t", int, "float", "intptr_t", int],
      ])
    } catch {
      continue
    }
    const address = addresses(koffi)
    return (transA, transB, m, n, k, alpha, a, offsetA, lda, b, offsetB, ldb, beta, c, offsetC, ldc) => {
      const flags = [transA ? transpose : noTranspose, transB ? transpose : noTranspose] as const
      const [x, y, z] = [address(a, offsetA), address(b, offsetB), address(c, offsetC)]
      sgemm(rowMajor, flags[0], flags[1], m, n, k, alpha, x, lda, y, ldb, beta, z, ldc)
    }
  }
  throw new PeftError(
    "E_BLAS",
    `[backend-cpu] ${path} has no sgemm of the C interface to BLAS (tried ${sgemmNames.map(([name]) => name).join(", ")})`,
  )
}

/**
 * Where an element lies in this process. Memory of arrays never moves, so it is asked for once per ArrayBuffer: that is much faster than to
 * make and pass an array that begins at the element.
 */
function addresses(koffi: Koffi): (array: Float32Array, offset: number) => number {
  const known = new WeakMap<ArrayBufferLike, number>()
  return (array, offset) => {
    const { buffer } = array
    let start = known.get(buffer)
    if (start === undefined) {
      start = Number(koffi.address(new Uint8Array(buffer)))
      known.set(buffer, start)
    }
    return start + array.byteOffset + 4 * offset
  }
}

/** Multiplications below which one thread is used: about 20 µs of work, of which waiting for another thread would be a large part. */
const threadedFrom = 2 ** 21

/** The smallest side of a product from which more than one thread pays: narrower ones wait for memory. */
const widestNarrow = 32

/** Small products on one thread, the others on all. On a busy machine a small product would otherwise wait for its other half to be scheduled. */
function threaded(sgemm: Sgemm, set: (count: number) => unknown, count: number): Sgemm {
  let now = 0
  return (transA, transB, m, n, k, ...rest) => {
    const wanted = m * n * k < threadedFrom || Math.min(m, n, k) < widestNarrow ? 1 : count
    if (wanted !== now) set(wanted)
    now = wanted
    sgemm(transA, transB, m, n, k, ...rest)
  }
}

/** The first of `names` that the library has under any of the prefixes and suffixes of OpenBLAS builds. */
function firstFunction(
  library: Library,
  names: readonly string[],
  result: string,
  args: string[],
): ((...args: unknown[]) => unknown) | undefined {
  for (const name of names.flatMap((n) => [n, `scipy_${n}`, `${n}64_`, `scipy_${n}64_`])) {
    try {
      return library.func(name, result, args)
    } catch {
      // This build spells it differently.
    }
  }
  return undefined
}

/**
 * The OpenBLAS kernels for this CPU, from the flags Linux reports; undefined elsewhere, where OpenBLAS decides.
 * Its own choice knows CPUs by model number: newer ones than the library get kernels two to seven times slower.
 */
function openblasCore(): string | undefined {
  if (process.arch !== "x64") return undefined
  try {
    const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" "))
    if (["avx512f", "avx512bw", "avx512dq", "avx512vl"].every((f) => flags.has(f))) return "SkylakeX"
    return flags.has("avx2") && flags.has("fma") ? "Haswell" : undefined
  } catch {
    return undefined
  }
}
