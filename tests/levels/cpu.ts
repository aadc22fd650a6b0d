/** The CPU backend as vitest.config.ts of this folder puts it before tests: on the level and with the threads that the run is for. */
import { type CpuBackend, type NodeCpuOptions, cpu as node } from "@peftjs/backend-cpu/node"

export { gemmGflops } from "@peftjs/backend-cpu/node"

export function cpu(options: NodeCpuOptions = {}): Promise<CpuBackend> {
  const { TEST_KERNELS: kernels, TEST_THREADS: threads } = process.env
  if (kernels === undefined || threads === undefined) throw new Error("no level is given")
  return node({ kernels: kernels as NonNullable<NodeCpuOptions["kernels"]>, threads: Number(threads), ...options })
}
