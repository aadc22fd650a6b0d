/** A backend by its name. */
import { type CpuBackend, cpu } from "@peftjs/backend-cpu/node"

/** Every name `--backend` takes. */
export type BackendName = "cpu"

const backends: Readonly<Record<BackendName, () => Promise<CpuBackend>>> = { cpu: () => cpu() }

/** Makes the backend. Throws what its factory throws. */
export function makeBackend(name: BackendName): Promise<CpuBackend> {
  return backends[name]()
}

/** What computes, for reports: "blas (Cooperlake, 2 threads, /usr/lib/libopenblas.so)". */
export function kernelsOf({ info }: CpuBackend): string {
  const { kernels, core, threads, library, relaxedSimd } = info
  const details = [core, threads && `${threads} threads`, library, relaxedSimd && "relaxed SIMD"].filter(Boolean)
  return details.length > 0 ? `${kernels} (${details.join(", ")})` : kernels
}
