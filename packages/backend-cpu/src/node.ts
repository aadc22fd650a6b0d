/** The CPU backend in Node: adds a BLAS library of the system to what the package offers everywhere. */
import { setFlagsFromString } from "node:v8"
import { PeftError } from "@peftjs/core"
import { type CpuBackend, createBackend } from "./backend.ts"
import { selfTest } from "./gemm-self-test.ts"
import { wasmGemm } from "./gemm-wasm.ts"
import { cpu as portable } from "./index.ts"
import { findBlas } from "./node-blas.ts"

export type { CpuBackend, CpuInfo } from "./backend.ts"
export { gemmGflops } from "./measure.ts"
export { mklIsFastest } from "./node-blas-search.ts"

export interface NodeCpuOptions {
  /** As in `CpuOptions`; "blas" insists on a BLAS, "auto" (default) takes one if there is one. */
  readonly kernels?: "reference" | "wasm" | "blas" | "auto"
  /** "off", or the path or name of the library; default: the environment variable PEFT_BLAS, else a search. */
  readonly blas?: string
  /** Threads of a BLAS for one product; default: as many as the machine has. A library's setting is one for the whole process. */
  readonly threads?: number
  /** Largest buffer in bytes; default 2 GiB. */
  readonly maxBufferBytes?: number
}

/**
 * A backend on this process's CPU.
 * Throws E_BLAS if a BLAS that was named is missing, lacks sgemm or fails its self-test, or if "blas" is asked for and none is found.
 */
export async function cpu(options: NodeCpuOptions = {}): Promise<CpuBackend> {
  const { kernels = "auto", threads, maxBufferBytes } = options
  if (threads !== undefined && !(Number.isSafeInteger(threads) && threads >= 1))
    throw new PeftError("E_OPTION", `[backend-cpu] threads is ${threads}; it must be a whole number of at least 1`)
  if (kernels !== "reference") allowRelaxedSimd()
  if (kernels === "auto" || kernels === "blas") {
    const blas = await findBlas(options.blas ?? process.env.PEFT_BLAS, threads)
    if (blas !== undefined) {
      const { gemm, ...info } = blas
      return createBackend(gemm, { kernels: "blas", ...info }, maxBufferBytes)
    }
  }
  if (kernels === "blas") {
    throw new PeftError(
      "E_BLAS",
      `[backend-cpu] kernels is "blas" but no BLAS was found; install OpenBLAS (a system package, or Python's scipy-openblas32 or mkl), or set PEFT_BLAS to the library's path`,
    )
  }
  return portable({ kernels, ...(maxBufferBytes === undefined ? {} : { maxBufferBytes }) })
}

/** V8 of Node 20 has the fused multiply-add of relaxed SIMD behind this flag; later ones have it without. */
const relaxedSimd = "experimental-wasm-relaxed-simd"
let asked = false

/** Once for a thread, and only where it is missing; taken back if the product is then wrong. The flag is one for the whole process. */
function allowRelaxedSimd(): void {
  if (asked || !process.versions.v8.startsWith("11.")) return
  asked = true
  if (wasmGemm()?.relaxed !== false) return
  setFlagsFromString(`--${relaxedSimd}`)
  const gemm = wasmGemm()
  if (gemm?.relaxed && selfTest(gemm) !== undefined) setFlagsFromString(`--no-${relaxedSimd}`)
}
