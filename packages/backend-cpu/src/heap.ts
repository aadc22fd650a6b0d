/**
 * One WebAssembly memory in which kernels compute, and what of it is in use.
 * The memory is shared where the engine has that: it then grows without detaching views, and threads may join. Where it has not, the memory is
 * scratch alone and every buffer lies outside. The first part is scratch for the running kernel; behind it lie the blocks of buffers, which
 * join with free neighbours when they are given back, so that steps of different lengths do not wear the memory out.
 * Vectors may be read and written past a block's end: at least `slack` bytes there belong to it. Knows no element types and no kernels.
 */
import { invariant } from "@peftjs/core"
import { type WasmFunction, wasmModule } from "./wasm-module.ts"

export interface Block {
  readonly address: number
  bytes: number
  free: boolean
  /** Neighbours in the memory. */
  before: Block | undefined
  after: Block | undefined
  /** Neighbours among the free blocks of about this size. */
  previous: Block | undefined
  next: Block | undefined
}

export type WasmExports = Readonly<Record<string, (...args: number[]) => number>>

export interface Heap {
  /** The memory as it is now; views are made from it, since the engine may have another object for it next time. */
  buffer(): ArrayBufferLike
  /** Bytes that the memory may grow to; 0 where it is scratch alone. */
  readonly limit: number
  /** Whether a view's buffer came from `buffer`. */
  owns(buffer: ArrayBufferLike): boolean
  /** Undefined where no room is left: the buffer must lie outside. */
  alloc(bytes: number): Block | undefined
  free(block: Block): void
  /**
   * Calls `body` with the address of `bytes` unspecified bytes, a multiple of 64, which are taken back when it returns. Calls may be nested.
   * Throws E_INTERNAL beyond `scratchBytes` in all.
   */
  scratch<T>(bytes: number, body: (address: number) => T): T
  /** Compiles functions on this memory; `imports` are functions they call. */
  load(functions: readonly WasmFunction[], imports?: Readonly<Record<string, (x: number) => number>>): WasmExports
  /** Bytes in use, bytes of the memory, and how often it grew. */
  usage(): { live: number; size: number; grown: number }
}

/** Scratch for the running kernel; pages nobody has touched cost nothing. */
export const scratchBytes: number = 64 * 2 ** 20

/** Addresses are multiples of it: a cache line. */
const unit = 64

/** Bytes behind a buffer's last that two vectors may touch. */
const slack = 32

const page = 65536
const growth = 16 * 2 ** 20

/** Below the 4 GiB that 32-bit addresses reach, and below what engines refuse. */
const defaultLimit = 3.5 * 2 ** 30

/** Undefined where WebAssembly or its SIMD is missing or forbidden. `largest` is the memory's largest size; 0 leaves scratch alone. */
export function createHeap(largest: number = defaultLimit): Heap | undefined {
  try {
    const initial = scratchBytes / page
    const { memory, limit } = makeMemory(initial, Math.max(initial, Math.floor(largest / page)))
    const load: Heap["load"] = (functions, imports = {}) => {
      const bytes = wasmModule(functions, { shared: limit > 0, imports: Object.keys(imports) })
      const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { e: { m: memory, ...imports } })
      return instance.exports as unknown as WasmExports
    }
    load([{ name: "probe", params: [], locals: ["v128"], body: [] }])
    return { limit, load, ...buffers(memory), ...blocks(memory, limit), ...scratchStack() }
  } catch {
    return undefined
  }
}

/** What is made once for a heap, most often the functions of a kernel. */
export function perHeap<T>(make: (heap: Heap) => T): (heap: Heap) => T {
  const made = new WeakMap<Heap, T>()
  return (heap) => {
    const found = made.get(heap) ?? make(heap)
    made.set(heap, found)
    return found
  }
}

/** Where a view begins in the heap; undefined if it is of other memory. */
export function placeOf(heap: Heap, { buffer, byteOffset }: ArrayBufferView): number | undefined {
  return heap.owns(buffer) ? byteOffset : undefined
}

/** A shared memory of as many pages as the engine allows, with the bytes it may grow to; else one that does not grow. */
function makeMemory(initial: number, most: number): { memory: WebAssembly.Memory; limit: number } {
  for (let maximum = most; maximum >= initial; maximum = Math.floor(maximum / 2)) {
    try {
      return { memory: new WebAssembly.Memory({ initial, maximum, shared: true }), limit: maximum * page }
    } catch {
      // No threads in this engine, or not that much address space.
    }
  }
  return { memory: new WebAssembly.Memory({ initial, maximum: initial }), limit: 0 }
}

/**
 * Growing a shared memory gives it a new buffer object, in V8 every other shared memory of the process too, while views of the old ones
 * stay good. So each that is handed out is remembered.
 */
function buffers(memory: WebAssembly.Memory): Pick<Heap, "buffer" | "owns"> {
  const seen = new WeakSet<ArrayBufferLike>()
  let current: ArrayBufferLike | undefined
  return {
    buffer() {
      const now = memory.buffer
      if (now !== current) {
        seen.add(now)
        current = now
      }
      return now
    },
    owns: (buffer) => buffer === current || seen.has(buffer),
  }
}

function scratchStack(): Pick<Heap, "scratch"> {
  // Address 0 stays unused.
  let top = unit
  return {
    scratch(bytes, body) {
      const address = top
      top += roundUp(bytes + slack, unit)
      try {
        invariant(top <= scratchBytes, `backend-cpu: ${bytes} bytes of scratch do not fit`)
        return body(address)
      } finally {
        top = address
      }
    },
  }
}

function blocks(memory: WebAssembly.Memory, limit: number): Pick<Heap, "alloc" | "free" | "usage"> {
  /** Free blocks by `binOf` their size. */
  const bins: (Block | undefined)[] = new Array(256).fill(undefined)
  let last: Block | undefined
  let live = 0
  let grown = 0

  function insert(block: Block): void {
    const bin = binOf(block.bytes)
    const head = bins[bin]
    block.free = true
    block.previous = undefined
    block.next = head
    if (head) head.previous = block
    bins[bin] = block
  }

  function remove(block: Block): void {
    block.free = false
    if (block.previous) block.previous.next = block.next
    else bins[binOf(block.bytes)] = block.next
    if (block.next) block.next.previous = block.previous
  }

  /** The smallest that fits of those of about this size, else the first of a larger size. */
  function find(bytes: number): Block | undefined {
    const bin = binOf(bytes)
    let best: Block | undefined
    for (let block = bins[bin]; block && best?.bytes !== bytes; block = block.next) {
      if (block.bytes >= bytes && (best === undefined || block.bytes < best.bytes)) best = block
    }
    for (let b = bin + 1; best === undefined && b < bins.length; b++) best = bins[b]
    return best
  }

  /** Makes the free block at the end at least that large. */
  function grow(bytes: number): Block | undefined {
    const size = memory.buffer.byteLength
    const tail = last?.free ? last.bytes : 0
    const least = roundUp(bytes - tail, page)
    if (size + least > limit) return undefined
    const more = Math.min(limit - size, Math.max(least, growth, roundUp(size / 8, page)))
    try {
      memory.grow(more / page)
    } catch {
      return undefined
    }
    grown++
    return end(more)
  }

  function end(bytes: number): Block {
    if (last?.free) {
      remove(last)
      last.bytes += bytes
    } else last = append(last, memory.buffer.byteLength - bytes, bytes)
    insert(last)
    return last
  }

  function split(block: Block, bytes: number): void {
    const rest = block.bytes - bytes
    if (rest < unit) return
    const made = append(block, block.address + bytes, rest)
    if (block === last) last = made
    block.bytes = bytes
    insert(made)
  }

  return {
    alloc(wanted) {
      const bytes = roundUp(wanted + slack, unit)
      const block = find(bytes) ?? grow(bytes)
      if (block === undefined) return undefined
      remove(block)
      split(block, bytes)
      live += block.bytes
      return block
    },
    free(block) {
      live -= block.bytes
      let joined = block
      const { before, after } = block
      if (after?.free) {
        remove(after)
        unlink(joined, after)
      }
      if (before?.free) {
        remove(before)
        unlink(before, joined)
        joined = before
      }
      if (joined.after === undefined) last = joined
      insert(joined)
    },
    usage: () => ({ live, size: memory.buffer.byteLength, grown }),
  }
}

/** A block behind `before`. */
function append(before: Block | undefined, address: number, bytes: number): Block {
  const after = before?.after
  const block = { address, bytes, free: false, before, after, previous: undefined, next: undefined }
  if (before) before.after = block
  if (after) after.before = block
  return block
}

/** Gives `block` the bytes of the one behind it. */
function unlink(block: Block, after: Block): void {
  block.bytes += after.bytes
  block.after = after.after
  if (after.after) after.after.before = block
}

/** Eight bins per power of two. */
function binOf(bytes: number): number {
  const units = bytes / unit
  const shift = Math.max(0, 28 - Math.clz32(units))
  return 8 * shift + (units >>> shift)
}

function roundUp(n: number, to: number): number {
  return Math.ceil(n / to) * to
}
