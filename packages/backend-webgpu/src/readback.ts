/** Buffers that the host reads from. Knows nothing of element types. */
/// <reference types="@webgpu/types" />
import { mapRead, usage } from "./flags.ts"

/** What is copied to. */
export interface Landing {
  readonly gpu: GPUBuffer
  /** True once the device has said that the memory is there. */
  ready: boolean
  /** True when it has said that there is none. */
  failed: boolean
}

export interface Readback {
  take(bytes: number): Landing
  /** The first bytes of what was copied there; the buffer is kept for the next time. Undefined when there was no memory for it. */
  bytes(landing: Landing, count: number): Promise<ArrayBuffer | undefined>
  made(): { buffers: number; bytes: number; kept: number }
}

/** Larger ones, and what comes on top, are given back. */
const keptBytes = 32 * 2 ** 20

/** `wake` is called when a buffer has become ready, or has failed. */
export function createReadback(device: GPUDevice, wake: () => void): Readback {
  const idle = new Map<number, Landing[]>()
  const counts = { buffers: 0, bytes: 0, kept: 0 }

  const make = (size: number): Landing => {
    counts.buffers++
    counts.bytes += size
    device.pushErrorScope("validation")
    device.pushErrorScope("out-of-memory")
    const gpu = device.createBuffer({ size, usage: usage.mapRead | usage.copyTarget })
    const scopes = Promise.all([device.popErrorScope(), device.popErrorScope()])
    const landing: Landing = { gpu, ready: false, failed: false }
    scopes.then(
      (errors) => {
        landing.failed = errors.some((error) => error !== null)
        landing.ready = true
        wake()
      },
      // Rejects only when the device is lost, which is told elsewhere.
      () => {},
    )
    return landing
  }

  return {
    made: () => ({ ...counts }),
    take(bytes) {
      const known = idle.get(bytes)?.pop()
      if (!known) return make(bytes)
      counts.kept -= bytes
      return known
    },
    async bytes(landing, count) {
      const { gpu, failed } = landing
      if (failed) return undefined
      await gpu.mapAsync(mapRead)
      const host = gpu.getMappedRange().slice(0, count)
      gpu.unmap()
      if (counts.kept + gpu.size > keptBytes) gpu.destroy()
      else {
        counts.kept += gpu.size
        const list = idle.get(gpu.size)
        if (list) list.push(landing)
        else idle.set(gpu.size, [landing])
      }
      return host
    },
  }
}
