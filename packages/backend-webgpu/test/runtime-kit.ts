/** Runtimes for tests that break them: each its own device, which a test may stand in front of. */
import type { DeviceBuffer } from "@peftjs/core"
import { openDevice } from "../src/device.ts"
import type { GpuBuffer, Program } from "../src/gpu.ts"
import { createRuntime, type Runtime } from "../src/runtime.ts"
import { backends } from "./device.ts"

/** Why there is no device. */
export const absent: string | undefined = typeof backends.webgpu === "function" ? undefined : backends.webgpu.absent

/** `createBuffer` stands before the device's own; `seen` gets the device itself. */
export async function openRuntime(
  createBuffer?: (descriptor: GPUBufferDescriptor, real: (descriptor: GPUBufferDescriptor) => GPUBuffer) => GPUBuffer,
  seen?: (device: GPUDevice) => void,
): Promise<Runtime> {
  const dawn = (globalThis as Record<symbol, unknown>)[Symbol.for("peftjs.webgpu.dawn")] as GPU | undefined
  const { device, info } = await openDevice(dawn ?? navigator.gpu)
  seen?.(device)
  const watched = new Proxy(device, {
    get(target, name) {
      if (name === "createBuffer" && createBuffer)
        return (descriptor: GPUBufferDescriptor) => createBuffer(descriptor, (d) => target.createBuffer(d))
      const value = target[name as keyof GPUDevice] as unknown
      return typeof value === "function" ? value.bind(target) : value
    },
  })
  return createRuntime(watched, info, 64 * 2 ** 20)
}

/** y = x + added; `variant` makes another pipeline of it. */
export function plus(gpu: Runtime, x: DeviceBuffer, added: number, variant = 0): GpuBuffer {
  const y = gpu.alloc("f32", x.length)
  const program = gpu.program(`test plus ${variant}`, () => ({
    inputs: [{ name: "x", type: "f32" }],
    outputs: [{ name: "y", type: "f32" }],
    params: [
      { name: "n", type: "u32" },
      { name: "added", type: "f32" },
    ],
    workgroupSize: [64],
    body: `if (index >= p.n) { return; }\ny[index] = x[index] + p.added;`,
  }))
  gpu.run(program, { inputs: [x], outputs: [y], params: [x.length, added], groups: Math.ceil(x.length / 64) })
  return y
}

/** x += added, in place. */
export function add(gpu: Runtime, x: DeviceBuffer, added: number): void {
  const program = gpu.program("test add", () => ({
    inputs: [],
    outputs: [{ name: "x", type: "f32" }],
    params: [{ name: "added", type: "f32" }],
    workgroupSize: [64],
    body: "if (index < arrayLength(&x)) { x[index] += p.added; }",
  }))
  gpu.update(program, { inputs: [], targets: [x], params: [added], groups: Math.ceil(x.length / 64) })
}

export const broken = (gpu: Runtime): Program =>
  gpu.program("test broken", () => ({
    inputs: [],
    outputs: [{ name: "y", type: "f32" }],
    params: [{ name: "n", type: "u32" }],
    workgroupSize: [64],
    body: "y[0] = nonsense;",
  }))

export const filled = (length: number, value: number): Float32Array => new Float32Array(length).fill(value)

export async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no error",
    (error: { code?: string }) => error.code ?? String(error),
  )
}
