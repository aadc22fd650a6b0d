/**
 * Device memory: typed arrays behind opaque handles, and a pool that gives freed memory out again.
 * A training step frees and asks for the same sizes over and over; fresh memory would cost a page fault per 4 KiB and work for the garbage collector.
 * Knows nothing of kernels.
 */
import { bytesPerElement, type DeviceBuffer, type DType, invariant, PeftError, type TypedArray } from "@peftjs/core"

/** A DeviceBuffer of this backend. `data` is undefined once the buffer has been freed. */
export interface CpuBuffer extends DeviceBuffer {
  data: TypedArray | undefined
}

type ArrayOf = {
  f32: Float32Array
  f16: Uint16Array
  bf16: Uint16Array
  i32: Int32Array
  u32: Uint32Array
  u8: Uint8Array
}

export interface Memory {
  readonly maxBufferBytes: number
  /** A buffer with unspecified contents: the caller fills all of it. Throws E_BUFFER_SIZE. */
  alloc<D extends DType>(dtype: D, length: number): CpuBuffer & { data: ArrayOf[D] }
  free(buffer: DeviceBuffer): void
  /** Live and pooled bytes, for tests and measurements. */
  usage(): { live: number; pooled: number; fresh: number }
}

/** Pooled memory may exceed what was ever live at once by a quarter and this much; the longest unused goes first. */
const slackBytes = 64 * 2 ** 20

export function createMemory(maxBufferBytes: number): Memory {
  const pool = new Map<number, ArrayBuffer[]>()
  let live = 0
  let peak = 0
  let pooled = 0
  let fresh = 0

  function take(bytes: number): ArrayBuffer {
    const list = pool.get(bytes)
    const found = list?.pop()
    if (found !== undefined) {
      pooled -= bytes
      // Moved to the end: the map's order is then the order of use, which eviction follows.
      pool.delete(bytes)
      if ((list as ArrayBuffer[]).length > 0) pool.set(bytes, list as ArrayBuffer[])
      return found
    }
    const limit = 1.25 * peak + slackBytes
    for (const [size, kept] of pool) {
      if (live + pooled <= limit) break
      while (kept.length > 0 && live + pooled > limit) {
        kept.pop()
        pooled -= size
      }
      if (kept.length === 0) pool.delete(size)
    }
    fresh++
    return new ArrayBuffer(bytes)
  }

  return {
    maxBufferBytes,
    alloc(dtype, length) {
      const bytes = length * bytesPerElement[dtype]
      if (bytes > maxBufferBytes) {
        throw new PeftError(
          "E_BUFFER_SIZE",
          `[backend-cpu] a buffer of ${length} ${dtype} elements needs ${bytes} bytes; at most ${maxBufferBytes} are allowed (maxBufferBytes); split it`,
        )
      }
      const size = sizeClass(bytes)
      live += size
      peak = Math.max(peak, live)
      return { dtype, length, data: view(dtype, take(size), length) } as CpuBuffer & { data: never }
    },
    free(buffer) {
      const { buffer: memory } = dataOf(buffer)
      ;(buffer as CpuBuffer).data = undefined
      const size = memory.byteLength
      live -= size
      pooled += size
      const list = pool.get(size)
      if (list === undefined) pool.set(size, [memory as ArrayBuffer])
      else list.push(memory as ArrayBuffer)
    },
    usage: () => ({ live, pooled, fresh }),
  }
}

/** The host array of a buffer; throws E_INTERNAL for a freed or foreign one. */
export function dataOf(buffer: DeviceBuffer): TypedArray {
  const { data } = buffer as CpuBuffer
  invariant(data !== undefined, "backend-cpu: a buffer was used after it was freed, or belongs to another backend")
  return data
}

export function f32Of(buffer: DeviceBuffer): Float32Array {
  const data = dataOf(buffer)
  invariant(buffer.dtype === "f32", `backend-cpu: expected an f32 buffer, got ${buffer.dtype}`)
  return data as Float32Array
}

/** Rounds up to an eighth of the power of two below, so that batches of slightly different length share memory. */
function sizeClass(bytes: number): number {
  if (bytes <= 64) return 64
  const step = 2 ** Math.max(6, 28 - Math.clz32(Math.min(bytes - 1, 0xffffffff)))
  return Math.ceil(bytes / step) * step
}

const views = {
  f32: (b: ArrayBuffer, n: number) => new Float32Array(b, 0, n),
  f16: (b: ArrayBuffer, n: number) => new Uint16Array(b, 0, n),
  bf16: (b: ArrayBuffer, n: number) => new Uint16Array(b, 0, n),
  i32: (b: ArrayBuffer, n: number) => new Int32Array(b, 0, n),
  u32: (b: ArrayBuffer, n: number) => new Uint32Array(b, 0, n),
  u8: (b: ArrayBuffer, n: number) => new Uint8Array(b, 0, n),
}

function view(dtype: DType, memory: ArrayBuffer, length: number): TypedArray {
  return views[dtype](memory, length)
}
