/**
 * What kernels see of the device: typed buffers, and programs that run over them in order.
 * Knows no kernel. Kernels know nothing of adapters, queues, pools, pipelines or bind groups: those are behind this interface.
 */
/// <reference types="@webgpu/types" />
import type { DeviceBuffer, DType } from "@peftjs/core"
import type { Memory } from "./memory.ts"

/** A DeviceBuffer of this backend. Its memory is a multiple of 16 bytes, so that any ElementType sees all elements; the rest is unspecified. */
export interface GpuBuffer extends DeviceBuffer {
  /** Undefined once freed. */
  memory: Memory | undefined
}

/** How a shader sees a buffer's words. */
export type ElementType = "f32" | "u32" | "i32" | "vec2<u32>" | "vec2<f32>" | "vec4<f32>" | "vec4<u32>"

export interface Binding {
  /** The shader's variable: an array of `type`. */
  readonly name: string
  readonly type: ElementType
}

/** A scalar of the uniform block `p`: `p.rows` in the shader. */
export interface ProgramParam {
  readonly name: string
  readonly type: "u32" | "i32" | "f32"
}

/** A compute shader before it is compiled. Everything that changes from call to call is in params, so that few are compiled. */
export interface Program {
  /** Two programs of equal key are the same program. Begins with the kernel's name, which errors mention. */
  readonly key: string
  readonly inputs: readonly Binding[]
  /** Written; those of `update` are read as well. */
  readonly outputs: readonly Binding[]
  readonly params: readonly ProgramParam[]
  readonly workgroupSize: readonly [x: number, y?: number]
  /** Functions, workgroup variables and constants beside the main function. */
  readonly helpers?: string
  /**
   * Statements of the main function. In scope: the bindings, `p`, `group` (vec3u of the workgroup), `local` (vec3u inside it), `lane` (index
   * inside it), `index` (u32, the invocation's number when groups are counted on), and `group_index` (u32, the workgroup's number likewise).
   */
  readonly body: string
  /** "subgroups" where the body uses them (`subgroup_size` and `subgroup_lane` are in scope then). */
  readonly needs?: readonly "subgroups"[]
}

export interface RunOptions {
  readonly inputs: readonly DeviceBuffer[]
  /** In the order of the program's params. */
  readonly params: readonly number[]
  /** Workgroups: a count, spread over two dimensions where it is above the device's limit, or [x, y, z] exactly. */
  readonly groups: number | readonly [number, number, number]
}

export interface Gpu {
  readonly features: {
    /** Subgroup operations; sizes differ from device to device: read subgroup_size. */
    readonly subgroups: boolean
    /** shader-f16. */
    readonly f16: boolean
    /** A driver that computes on the CPU: workgroup memory and barriers cost much there, big kernels compile slowly. */
    readonly software: boolean
  }
  readonly maxBufferBytes: number
  /** Inputs and outputs that a program may have together; at least 8. */
  readonly maxBindings: number
  /** The program of that key, built at the first call. */
  program(key: string, build: () => Omit<Program, "key">): Program
  /** A buffer with unspecified contents. Throws E_BUFFER_SIZE. */
  alloc(dtype: DType, length: number): GpuBuffer
  /** Enqueues a program that writes new buffers, none of them an input. With no output that has an element nothing is run. */
  run(program: Program, options: RunOptions & { readonly outputs: readonly GpuBuffer[] }): void
  /** Enqueues a program that changes buffers in place. */
  update(program: Program, options: RunOptions & { readonly targets: readonly DeviceBuffer[] }): void
  /** Gives a buffer's memory to whatever is enqueued after. */
  free(buffer: DeviceBuffer): void
  /** The memory of a buffer. Throws E_FREED, E_DEVICE. */
  own(buffer: DeviceBuffer): GpuBuffer
}
