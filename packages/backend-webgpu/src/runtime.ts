/** The device behind Gpu: memory that is used again, pipelines, and commands that go to the queue together. */
/// <reference types="@webgpu/types" />
import { bytesPerElement, type DeviceBuffer, type DType, invariant, PeftError, type TypedArray } from "@peftjs/core"
import type { DeviceInfo } from "./device.ts"
import type { Gpu, GpuBuffer, Program, RunOptions } from "./gpu.ts"
import { shaderOf } from "./shader.ts"

export interface Runtime extends Gpu {
  upload(data: TypedArray, dtype: DType): GpuBuffer
  read(buffer: DeviceBuffer): Promise<TypedArray>
  flush(): Promise<void>
  live(): number
}

export function createRuntime(device: GPUDevice, info: DeviceInfo, maxBufferBytes: number): Runtime {
  const programs = new Map<string, Program>()
  const pipelines = new Map<string, GPUComputePipeline>()
  const made = new WeakSet<DeviceBuffer>()
  let alive = 0
  let encoder: GPUCommandEncoder | undefined
  const wordsOf = (dtype: DType, length: number): number =>
    Math.max(4, Math.ceil((length * bytesPerElement[dtype]) / 4) * 4)
  const alloc = (dtype: DType, length: number): GpuBuffer => {
    const bytes = length * bytesPerElement[dtype]
    if (bytes > maxBufferBytes)
      throw new PeftError(
        "E_BUFFER_SIZE",
        `[backend-webgpu] ${bytes} bytes; a buffer has at most ${maxBufferBytes}; split it`,
      )
    const memory = device.createBuffer({
      size: wordsOf(dtype, length),
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    })
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
  const memoryOf = (buffer: DeviceBuffer): GPUBuffer => own(buffer).memory as GPUBuffer
  const submit = (): void => {
    if (encoder) device.queue.submit([encoder.finish()])
    encoder = undefined
  }
  const dispatch = (program: Program, buffers: readonly DeviceBuffer[], { params, groups }: RunOptions): void => {
    let pipeline = pipelines.get(program.key)
    if (!pipeline) {
      const module = device.createShaderModule({ label: program.key, code: shaderOf(program) })
      pipeline = device.createComputePipeline({
        label: program.key,
        layout: "auto",
        compute: { module, entryPoint: "main" },
      })
      pipelines.set(program.key, pipeline)
    }
    const limit = device.limits.maxComputeWorkgroupsPerDimension
    const count = typeof groups === "number" ? groups : 0
    const rows = Math.ceil(count / limit)
    const perRow = rows > 0 ? Math.ceil(count / rows) : 0
    const [x, y, z] = typeof groups === "number" ? [perRow, rows, 1] : groups
    if (x * y * z === 0) return
    invariant(params.length === program.params.length, `${program.key} takes ${program.params.length} params`)
    const block = new DataView(new ArrayBuffer(Math.ceil((params.length + 1) / 4) * 16))
    program.params.forEach(({ type }, i) => {
      const value = params[i] as number
      if (type === "f32") block.setFloat32(i * 4, value, true)
      else if (type === "i32") block.setInt32(i * 4, value, true)
      else block.setUint32(i * 4, value, true)
    })
    block.setUint32(params.length * 4, x, true)
    const uniform = device.createBuffer({
      size: block.byteLength,
      usage: GPUBufferUsage.UNIFORM,
      mappedAtCreation: true,
    })
    new Uint8Array(uniform.getMappedRange()).set(new Uint8Array(block.buffer))
    uniform.unmap()
    const entries = [...buffers.map(memoryOf), uniform].map((buffer, binding) => ({ binding, resource: { buffer } }))
    const bindGroup = device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries })
    encoder ??= device.createCommandEncoder()
    const pass = encoder.beginComputePass({ label: program.key })
    pass.setPipeline(pipeline)
    pass.setBindGroup(0, bindGroup)
    pass.dispatchWorkgroups(x, y, z)
    pass.end()
  }
  return {
    features: {
      subgroups: info.features.includes("subgroups"),
      f16: info.features.includes("shader-f16"),
      software: info.software,
    },
    maxBufferBytes,
    alloc,
    own,
    live: () => alive,
    program(key, build) {
      const known = programs.get(key)
      if (known) return known
      const program = { key, ...build() }
      programs.set(key, program)
      return program
    },
    run: (program, options) => {
      if (options.outputs.some((b) => b.length > 0)) dispatch(program, [...options.inputs, ...options.outputs], options)
    },
    update: (program, options) => dispatch(program, [...options.inputs, ...options.targets], options),
    free(buffer) {
      const owned = own(buffer)
      submit()
      owned.memory?.destroy()
      owned.memory = undefined
      alive--
    },
    upload(data, dtype) {
      submit()
      const buffer = alloc(dtype, data.length)
      const bytes = new Uint8Array(wordsOf(dtype, data.length))
      bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
      device.queue.writeBuffer(buffer.memory as GPUBuffer, 0, bytes)
      return buffer
    },
    async read(buffer) {
      const source = memoryOf(buffer)
      submit()
      const staging = device.createBuffer({
        size: source.size,
        usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
      })
      const copy = device.createCommandEncoder()
      copy.copyBufferToBuffer(source, 0, staging, 0, source.size)
      device.queue.submit([copy.finish()])
      await staging.mapAsync(GPUMapMode.READ)
      const host = staging.getMappedRange().slice(0)
      staging.destroy()
      const arrays = {
        f32: Float32Array,
        f16: Uint16Array,
        bf16: Uint16Array,
        i32: Int32Array,
        u32: Uint32Array,
        u8: Uint8Array,
      }
      return new arrays[buffer.dtype](host, 0, buffer.length)
    },
    async flush() {
      submit()
      await device.queue.onSubmittedWorkDone()
    },
  }
}
