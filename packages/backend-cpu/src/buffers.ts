/**
 * Device memory: typed arrays behind opaque handles.
 * Where there is a heap (heap.ts: one WebAssembly memory), what kernels make and small uploads lie in it, and `addressOf` says where; kernels
 * in WebAssembly read and write them in place. Large uploads (weights) lie there while a quarter of it suffices, else outside in arrays of
 * their own; so does whatever finds no room, and everything where there is no heap. Kernels reach those through scratch (staging.ts).
 * `dataOf` serves both.
 * Freed memory is given out again: a step frees and asks for the same sizes over and over; fresh memory would cost a page fault per 4 KiB.
 * Views of a shared memory survive its growth; `fill` and `slice` on them are slow, `set` is not. Knows nothing of kernels.
 */
import {
  bytesPerElement,
  type DeviceBuffer,
  type DType,
  hostView,
  invariant,
  PeftError,
  type TypedArray,
} from "@peftjs/core"
import type { Block, Heap } from "./heap.ts"

/** A DeviceBuffer of this backend. `data` is undefined once the buffer has been freed. */
export interface CpuBuffer extends DeviceBuffer {
  data: TypedArray | undefined
  /** Where it lies in the heap; undefined outside. */
  readonly block: Block | undefined
  /** Memory of the caller's, which others read too. */
  readonly borrowed?: true
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
  /** Absent where kernels run without WebAssembly. */
  readonly heap: Heap | undefined
  /** A buffer with unspecified contents: the caller fills all of it. Throws E_BUFFER_SIZE. */
  alloc<D extends DType>(dtype: D, length: number): CpuBuffer & { data: ArrayOf[D] }
  /**
   * A copy of host memory; memory that was made to be shared between threads is kept as it is, so that a frozen base exists once for all of
   * them. Throws E_BUFFER_SIZE.
   */
  upload(data: TypedArray, dtype: DType): CpuBuffer
  free(buffer: DeviceBuffer): void
  /** Live and pooled bytes, and how often memory was asked for, for tests and measurements. */
  usage(): { live: number; pooled: number; fresh: number }
}

/** Uploads of more bytes are weights, which stay: those of a large model would leave no room for what is computed. */
export const largeUpload: number = 2 ** 20

/** Shared memory is kept from this size on; what is smaller is read faster in the heap. */
const keptUpload = 2 ** 16

/** Pooled memory may exceed what was ever live at once by a quarter and this much; the longest unused goes first. */
const slackBytes = 64 * 2 ** 20

export function createMemory(maxBufferBytes: number, heap?: Heap): Memory {
  const outside = createPool()

  function check(dtype: DType, length: number): number {
    const bytes = length * bytesPerElement[dtype]
    if (bytes <= maxBufferBytes) return bytes
    throw new PeftError(
      "E_BUFFER_SIZE",
      `[backend-cpu] a buffer of ${length} ${dtype} elements needs ${bytes} bytes; at most ${maxBufferBytes} are allowed (maxBufferBytes); split it`,
    )
  }

  function make(dtype: DType, length: number, bytes: number, inside: boolean): CpuBuffer {
    const block = inside ? heap?.alloc(bytes) : undefined
    const data =
      heap && block
        ? hostView(dtype, heap.buffer(), block.address, length)
        : hostView(dtype, outside.take(sizeClass(bytes)), 0, length)
    return { dtype, length, data, block }
  }

  return {
    maxBufferBytes,
    heap,
    alloc: (dtype, length) => make(dtype, length, check(dtype, length), true) as CpuBuffer & { data: never },
    upload(data, dtype) {
      const bytes = check(dtype, data.length)
      if (bytes >= keptUpload && isShared(data))
        return { dtype, length: data.length, data, block: undefined, borrowed: true }
      const room = heap === undefined ? 0 : heap.limit / 4 - heap.usage().live
      const buffer = make(dtype, data.length, bytes, bytes <= Math.max(largeUpload, room))
      dataOf(buffer).set(data)
      return buffer
    },
    free(buffer) {
      const { buffer: memory } = dataOf(buffer)
      const { block, borrowed } = buffer as CpuBuffer
      ;(buffer as CpuBuffer).data = undefined
      if (borrowed) return
      if (heap && block) heap.free(block)
      else outside.give(memory as ArrayBuffer)
    },
    usage() {
      const [inside, { live, pooled, fresh }] = [heap?.usage() ?? { live: 0, size: 0, grown: 0 }, outside.usage()]
      return { live: live + inside.live, pooled: pooled + inside.size - inside.live, fresh: fresh + inside.grown }
    },
  }
}

function isShared({ buffer }: TypedArray): boolean {
  return typeof SharedArrayBuffer !== "undefined" && buffer instanceof SharedArrayBuffer
}

/** Asked before a kernel writes into an argument. Throws E_INTERNAL for memory that others read too. */
export function requireOwn(buffer: DeviceBuffer): void {
  invariant(!(buffer as CpuBuffer).borrowed, "backend-cpu: a kernel would change memory that threads share")
}

/** Arrays outside the heap; those given back are kept by size. */
function createPool(): {
  take(bytes: number): ArrayBuffer
  give(memory: ArrayBuffer): void
  usage: Memory["usage"]
} {
  const pool = new Map<number, ArrayBuffer[]>()
  let live = 0
  let peak = 0
  let pooled = 0
  let fresh = 0

  return {
    take(bytes) {
      live += bytes
      peak = Math.max(peak, live)
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
    },
    give(memory) {
      const size = memory.byteLength
      live -= size
      pooled += size
      const list = pool.get(size)
      if (list === undefined) pool.set(size, [memory])
      else list.push(memory)
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

/** Where a buffer begins in the heap; undefined if it lies outside. Throws E_INTERNAL for a freed or foreign one. */
export function addressOf(buffer: DeviceBuffer): number | undefined {
  dataOf(buffer)
  return (buffer as CpuBuffer).block?.address
}

/** Rounds up to an eighth of the power of two below, so that batches of slightly different length share memory. */
function sizeClass(bytes: number): number {
  if (bytes <= 64) return 64
  const step = 2 ** Math.max(6, 28 - Math.clz32(Math.min(bytes - 1, 0xffffffff)))
  return Math.ceil(bytes / step) * step
}
