/** The CPU backend: TypeScript kernels, a WebAssembly matmul made at run time; `@peftjs/backend-cpu/node` adds a system BLAS. */
import { PeftError } from "@peftjs/core"
import { type CpuBackend, createBackend } from "./backend.ts"
import { referenceGemm } from "./gemm-reference.ts"
import { wasmGemm } from "./gemm-wasm.ts"

export type { CpuBackend, CpuInfo } from "./backend.ts"
export { gemmGflops } from "./measure.ts"

export interface CpuOptions {
  /**
   * "reference": plain TypeScript, no fused kernels: slow, the specification of the others. "wasm": matrix products in WebAssembly SIMD.
   * "auto" (default): the fastest that works.
   */
  readonly kernels?: "reference" | "wasm" | "auto"
  /** Largest buffer in bytes; default 2 GiB. */
  readonly maxBufferBytes?: number
}

/** A backend on this thread's CPU. Throws E_UNSUPPORTED if "wasm" is asked for and the engine has no WebAssembly SIMD. */
export async function cpu(options: CpuOptions = {}): Promise<CpuBackend> {
  const { kernels = "auto", maxBufferBytes } = options
  if (!["reference", "wasm", "auto"].includes(kernels)) {
    throw new PeftError(
      "E_UNSUPPORTED",
      `[backend-cpu] kernels is ${JSON.stringify(kernels)}; allowed are "reference", "wasm", "auto" (and "blas" from @peftjs/backend-cpu/node)`,
    )
  }
  const wasm = kernels === "reference" ? undefined : await wasmGemm()
  if (wasm !== undefined) return createBackend(wasm, { kernels: "wasm", relaxedSimd: wasm.relaxed }, maxBufferBytes)
  if (kernels === "wasm") {
    throw new PeftError(
      "E_UNSUPPORTED",
      `[backend-cpu] this engine has no WebAssembly SIMD, or a policy forbids it; use "auto"`,
    )
  }
  return createBackend(referenceGemm(), { kernels: "reference" }, maxBufferBytes)
}
