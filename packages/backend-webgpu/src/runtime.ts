/** The device behind Gpu: puts memory, pipelines and commands together and checks what kernels ask of them. Knows no kernel. */
/// <reference types="@webgpu/types" />
import {
  bytesPerElement,
  type DeviceBuffer,
  type DType,
  hostView,
  invariant,
  PeftError,
  type TypedArray,
} from "@peftjs/core"
import { createBindGroups } from "./bind-groups.ts"
import { createCommands, type Dispatch, describe, outOfMemory, uniformBytes } from "./commands.ts"
import type { DeviceInfo } from "./device.ts"
import { createFaults } from "./faults.ts"
import type { Gpu, GpuBuffer, Program, RunOptions } from "./gpu.ts"
import { createMemoryPool, type Memory } from "./memory.ts"
import { createPipelines, kernelError } from "./pipelines.ts"
import { createReadback } from "./readback.ts"
import { createUniforms } from "./uniforms.ts"

export interface Runtime extends Gpu {
  /** Copies at once: the array may be changed afterwards. Throws E_BUFFER_SIZE, E_DEVICE_LOST, and what went wrong before. */
  upload(data: TypedArray, dtype: DType): GpuBuffer
  /** Rejects with E_DEVICE_LOST, E_FREED, and with E_KERNEL or E_OUT_OF_MEMORY when what was to be computed before was not. */
  read(buffer: DeviceBuffer): Promise<TypedArray>
  flush(): Promise<void>
  /** Buffers made and not freed. */
  live(): number
  stats(): RuntimeStats
  /** Resolves to the error that everything throws once the device is gone. */
  readonly lost: Promise<Error>
  /** Ends the device; everything throws E_DEVICE_LOST afterwards, except free. */
  destroy(): void
}

/** Counts since the device was opened, and bytes now. A training step that repeats makes no buffer, pipeline or bind group. */
export interface RuntimeStats {
  readonly dispatches: number
  readonly submissions: number
  readonly buffersMade: number
  readonly bytesMade: number
  /** Kept for reuse. */
  readonly poolBytes: number
  readonly liveBytes: number
  readonly pipelines: number
  readonly bindGroups: number
}

export function createRuntime(device: GPUDevice, info: DeviceInfo, maxBufferBytes: number): Runtime {
  const { maxComputeWorkgroupsPerDimension: limit, maxStorageBuffersPerShaderStage: maxBindings } = device.limits
  const programs = new Map<string, Program>()
  const made = new WeakSet<DeviceBuffer>()
  let alive = 0

  const faults = createFaults(() => commands.recorded())
  const wake = (): void => commands.wake()
  const pipelines = createPipelines(device, wake)
  const uniforms = createUniforms(device, pipelines.uniforms, uniformBytes)
  const bindGroups = createBindGroups(device)
  const commands = createCommands({ device, faults, uniforms, bindGroups, afterSubmission: () => pool.submitted() })
  const pool = createMemoryPool(device, { ...commands, wake }, bindGroups.forget)
  const readback = createReadback(device, wake)

  device.lost.then(({ reason, message }) => faults.lose(message || reason))
  device.addEventListener("uncapturederror", ({ error }) => {
    const what = error.constructor.name === "GPUOutOfMemoryError" ? outOfMemory(error.message) : undefined
    faults.note(commands.accepted(), what ?? kernelError("a command", error.message))
  })

  const sizeOf = (dtype: DType, length: number): number => {
    faults.check()
    const bytes = length * bytesPerElement[dtype]
    if (bytes > maxBufferBytes)
      throw new PeftError(
        "E_BUFFER_SIZE",
        `[backend-webgpu] ${bytes} bytes; a buffer has at most ${maxBufferBytes}; split it`,
      )
    return Math.max(16, Math.ceil(bytes / 16) * 16)
  }
  const handle = (dtype: DType, length: number, memory: Memory): GpuBuffer => {
    const buffer: GpuBuffer = { dtype, length, memory }
    made.add(buffer)
    alive++
    return buffer
  }
  const own = (buffer: DeviceBuffer): GpuBuffer => {
    if (!made.has(buffer))
      throw new PeftError("E_DEVICE", "[backend-webgpu] a buffer of another backend; load everything on one")
    if ((buffer as GpuBuffer).memory) return buffer as GpuBuffer
    throw new PeftError("E_FREED", "[backend-webgpu] a buffer was used after it was freed")
  }
  const memoryOf = (buffer: DeviceBuffer): Memory => {
    const memory = own(buffer).memory as Memory
    // An error nobody was told of is told by the next read, not by the kernels on the way there.
    const error = faults.pending() ? undefined : faults.spoiled(memory.written)
    if (error) throw error
    return memory
  }

  const dispatch = (program: Program, options: RunOptions, outputs: readonly DeviceBuffer[]): void => {
    faults.check()
    const groups = typeof options.groups === "number" ? spread(options.groups, limit) : options.groups
    if (groups[0] * groups[1] * groups[2] === 0) return
    const { params } = options
    const op = { program, params, groups }
    const inputs = options.inputs.map(memoryOf)
    const written = outputs.map((buffer) => own(buffer).memory as Memory)
    const wrong = whyNot(op, inputs, written, limit)
    if (wrong) invariant(false, `${describe(op)}: ${wrong}`)
    const pipeline = pipelines.of(program)
    const number = commands.add({ kind: "dispatch", ...op, pipeline, memories: [...inputs, ...written] })
    for (const memory of written) memory.written = number
  }

  return {
    features: {
      subgroups: info.features.includes("subgroups"),
      f16: info.features.includes("shader-f16"),
      software: info.software,
    },
    maxBufferBytes,
    maxBindings,
    own,
    live: () => alive,
    lost: faults.lost,
    destroy() {
      faults.lose("it was destroyed by the program")
      device.destroy()
    },
    stats() {
      const { buffers, bytes, kept } = readback.made()
      const memory = pool.stats()
      return {
        ...commands.counts(),
        ...memory,
        buffersMade: memory.buffersMade + buffers,
        bytesMade: memory.bytesMade + bytes,
        poolBytes: memory.poolBytes + kept,
        pipelines: pipelines.count(),
        bindGroups: bindGroups.made(),
      }
    },
    program(key, build) {
      const known = programs.get(key)
      if (known) return known
      const program = { key, ...build() }
      programs.set(key, program)
      return program
    },
    alloc: (dtype, length) => handle(dtype, length, pool.take(sizeOf(dtype, length))),
    run(program, options) {
      if (options.outputs.some(({ length }) => length > 0)) dispatch(program, options, options.outputs)
    },
    update(program, options) {
      // What they held is lost too when it was spoiled, and then they must not pass for written.
      for (const target of options.targets) memoryOf(target)
      dispatch(program, options, options.targets)
    },
    free(buffer) {
      // On a lost device everything is gone already, whatever state it was in.
      if (faults.isLost() && !(buffer as GpuBuffer).memory) return
      const owned = own(buffer)
      pool.give(owned.memory as Memory)
      owned.memory = undefined
      alive--
    },
    upload(data, dtype) {
      faults.tell()
      invariant(data.BYTES_PER_ELEMENT === bytesPerElement[dtype], `${dtype} from ${data.constructor.name}`)
      const size = sizeOf(dtype, data.length)
      return handle(
        dtype,
        data.length,
        pool.takeWritten(size, (gpu) => write(device.queue, gpu, data)),
      )
    },
    async read(buffer) {
      faults.tell()
      const memory = memoryOf(buffer)
      const { dtype, length } = buffer
      const target = readback.take(memory.bytes)
      const number = commands.add({ kind: "copy", memories: [memory], target })
      const finish = async (): Promise<TypedArray> => {
        // Reads that are asked for at once go to the device at once.
        await Promise.resolve()
        await commands.whenSubmitted()
        const [host] = await Promise.all([
          readback.bytes(target, length * bytesPerElement[dtype]),
          commands.whenAccepted(),
        ])
        faults.tell()
        const error = faults.spoiled(number)
        if (error) throw error
        if (!host) throw outOfMemory(`a copy of ${memory.bytes} bytes to read`)
        return hostView(dtype, host)
      }
      return faults.guard(finish())
    },
    async flush() {
      faults.tell()
      const finish = async (): Promise<void> => {
        await commands.whenSubmitted()
        await Promise.all([device.queue.onSubmittedWorkDone(), commands.whenAccepted()])
      }
      await faults.guard(finish())
      faults.tell()
    },
  }
}

/** Why a dispatch cannot be: mistakes of kernels, which the device would only report later and less clearly. */
function whyNot(
  { program, params, groups }: Pick<Dispatch, "program" | "params" | "groups">,
  inputs: readonly Memory[],
  written: readonly Memory[],
  limit: number,
): string | undefined {
  if (!groups.every((n) => Number.isInteger(n) && n > 0 && n <= limit)) return `more than ${limit} workgroups in a row`
  if (params.length !== program.params.length) return `takes ${program.params.length} params`
  if (inputs.length !== program.inputs.length) return `takes ${program.inputs.length} inputs, not ${inputs.length}`
  if (written.length !== program.outputs.length)
    return `writes ${program.outputs.length} buffers, not ${written.length}`
  const twice = written.some((memory, i) => inputs.includes(memory) || written.indexOf(memory) !== i)
  return twice ? "writes a buffer that it has bound already" : undefined
}

/** A count of workgroups over two dimensions, as evenly as it goes. */
function spread(count: number, limit: number): readonly [number, number, number] {
  const rows = Math.ceil(count / limit)
  return [rows > 0 ? Math.ceil(count / rows) : 0, rows, 1]
}

function write(queue: GPUQueue, gpu: GPUBuffer, data: TypedArray): void {
  const shared = Object.prototype.toString.call(data.buffer) === "[object SharedArrayBuffer]"
  // Dawn crashes on shared memory.
  const { buffer, byteOffset, byteLength } = shared ? data.slice() : data
  const words = byteLength - (byteLength % 4)
  if (words > 0) queue.writeBuffer(gpu, 0, buffer as ArrayBuffer, byteOffset, words)
  if (words === byteLength) return
  const tail = new Uint8Array(4)
  tail.set(new Uint8Array(buffer, byteOffset + words, byteLength - words))
  queue.writeBuffer(gpu, words, tail)
}
