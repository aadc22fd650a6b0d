/** The scalars of many dispatches in one buffer, written once per submission and bound at offsets. Knows no pipelines. */
/// <reference types="@webgpu/types" />
import { usage } from "./flags.ts"
import type { Program } from "./gpu.ts"

export interface Uniforms {
  /** Bytes that the block of a program takes; a multiple of the offset alignment. */
  sizeOf(program: Program): number
  /** Puts a block at an offset. `perRow` is the number of workgroups in a row of the dispatch. */
  put(offset: number, program: Program, params: readonly number[], perRow: number): void
  /** To the device: the first `bytes`. */
  write(bytes: number): void
  /** What binds a block of that size. */
  group(size: number): GPUBindGroup
}

/** For blocks of `capacity` bytes together. */
export function createUniforms(device: GPUDevice, layout: GPUBindGroupLayout, capacity: number): Uniforms {
  const alignment = device.limits.minUniformBufferOffsetAlignment
  const buffer = device.createBuffer({ size: capacity, usage: usage.uniform | usage.copyTarget })
  const host = new DataView(new ArrayBuffer(capacity))
  const groups = new Map<number, GPUBindGroup>()
  return {
    // A struct of scalars is rounded up to 16 bytes at most; one more for groups_per_row.
    sizeOf: ({ params }) => Math.ceil(((params.length + 1) * 4) / alignment) * alignment,
    put(offset, program, params, perRow) {
      program.params.forEach(({ type }, i) => {
        const value = params[i] as number
        if (type === "f32") host.setFloat32(offset + i * 4, value, true)
        else if (type === "i32") host.setInt32(offset + i * 4, value, true)
        else host.setUint32(offset + i * 4, value, true)
      })
      host.setUint32(offset + program.params.length * 4, perRow, true)
    },
    write(bytes) {
      if (bytes > 0) device.queue.writeBuffer(buffer, 0, host.buffer, 0, bytes)
    },
    group(size) {
      let group = groups.get(size)
      if (!group) {
        group = device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer, size } }] })
        groups.set(size, group)
      }
      return group
    },
  }
}
