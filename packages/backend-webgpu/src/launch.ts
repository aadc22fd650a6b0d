/** The few lines every kernel shares: one output from some inputs, and parameters by name. Knows no kernel. */
import type { DType } from "@peftjs/core"
import type { Gpu, GpuBuffer, Program, ProgramParam, RunOptions } from "./gpu.ts"

/** Invocations of a workgroup of kernels that work on each element alone. */
export const threads = 64

/** Workgroups for one invocation per item. */
export const groupsFor = (items: number): number => Math.ceil(items / threads)

export const u32s = (...names: readonly string[]): ProgramParam[] => names.map((name) => ({ name, type: "u32" }))

/** Runs a program that writes one new buffer. The inputs are looked at first, so that a freed one leaves nothing behind. */
export function produce(gpu: Gpu, program: Program, options: RunOptions, dtype: DType, length: number): GpuBuffer {
  for (const x of options.inputs) gpu.own(x)
  const out = gpu.alloc(dtype, length)
  gpu.run(program, { ...options, outputs: [out] })
  return out
}
