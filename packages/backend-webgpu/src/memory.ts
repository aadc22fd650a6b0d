/**
 * Device memory that is used again: freed blocks wait under their exact size. (Rounding sizes up costs more than it saves: the shapes of a
 * training step repeat.) Knows no element types and no kernels.
 *
 * Order: kernels run in the order they are recorded, so a kernel may take a block at once whose last use is still recorded. A write from the host
 * runs before everything recorded and not submitted: it may only take a block whose uses are all submitted.
 */
/// <reference types="@webgpu/types" />
import { usage } from "./flags.ts"

export interface Memory {
  readonly id: number
  readonly bytes: number
  gpu: GPUBuffer
  /** True once the device has said that the memory is there. */
  ready: boolean
  /** True when it has said that there is none. */
  failed: boolean
  /** The command that wrote it last; -1 for the host. */
  written: number
  /** Commands recorded when it was freed. */
  freed: number
}

export interface Timeline {
  /** Commands recorded so far. */
  recorded(): number
  /** Commands submitted so far. */
  submitted(): number
  /** Submits what can be. */
  submit(): void
  /** Called when memory has become ready, or has failed. */
  wake(): void
}

export interface MemoryPool {
  /** For kernels to write. */
  take(bytes: number): Memory
  /** For the host: `write` is called at once with the block. */
  takeWritten(bytes: number, write: (gpu: GPUBuffer) => void): Memory
  /** Back into the pool. */
  give(memory: Memory): void
  /** To be called after each submission. */
  submitted(): void
  stats(): { buffersMade: number; bytesMade: number; poolBytes: number; liveBytes: number }
}

/** A size that was not asked for during so many submissions is given back: several steps of a large model, many of a small one. */
const patience = 512
/** What is in use and what waits together stay below half as much again as ever was in use, and this. */
const slack = 256 * 2 ** 20
const bufferUsage = usage.storage | usage.copySource | usage.copyTarget

/** `forget` is told the ids of destroyed blocks. */
export function createMemoryPool(
  device: GPUDevice,
  timeline: Timeline,
  forget: (ids: ReadonlySet<number>) => void,
): MemoryPool {
  /** By size; each list by falling id, so that equal work takes equal blocks and finds its bind groups again. */
  const idle = new Map<number, { blocks: Memory[]; asked: number }>()
  const made = { buffers: 0, bytes: 0 }
  let submissions = 0
  let idleBytes = 0
  let liveBytes = 0
  let peakBytes = 0

  const destroy = (chosen: (memory: Memory, asked: number) => boolean): void => {
    const gone = new Set<number>()
    for (const [bytes, list] of idle) {
      list.blocks = list.blocks.filter((memory) => {
        // A command that is recorded and not submitted still needs its buffer.
        if (memory.freed > timeline.submitted() || !chosen(memory, list.asked)) return true
        gone.add(memory.id)
        idleBytes -= memory.bytes
        memory.gpu.destroy()
        return false
      })
      if (list.blocks.length === 0) idle.delete(bytes)
    }
    if (gone.size > 0) forget(gone)
  }

  /** Gives back what has waited longest, where too much waits: shapes that never come again, a model that was unloaded. */
  const trim = (more = 0): void => {
    let excess = liveBytes + idleBytes + more - 1.5 * Math.max(peakBytes, liveBytes + more) - slack
    if (excess <= 0) return
    const oldest = [...idle.values()].flatMap(({ blocks }) => blocks).sort((a, b) => a.freed - b.freed)
    const chosen = new Set<Memory>()
    for (const memory of oldest) {
      if (excess <= 0) break
      chosen.add(memory)
      excess -= memory.bytes
    }
    destroy((memory) => chosen.has(memory))
  }

  /** Nobody gets a block that is not there: it may have been freed before that was known. */
  const withdraw = (memory: Memory): void => {
    const list = idle.get(memory.bytes)
    const at = list?.blocks.indexOf(memory) ?? -1
    if (at < 0) return
    list?.blocks.splice(at, 1)
    idleBytes -= memory.bytes
  }

  const reserve = (memory: Memory): Memory => {
    liveBytes += memory.bytes
    peakBytes = Math.max(peakBytes, liveBytes)
    return memory
  }

  const createBuffer = (bytes: number): GPUBuffer => {
    made.buffers++
    made.bytes += bytes
    return device.createBuffer({ size: bytes, usage: bufferUsage })
  }

  const make = (bytes: number, write?: (gpu: GPUBuffer) => void): Memory => {
    trim(bytes)
    const attempt = (): { gpu: GPUBuffer; trouble: Promise<GPUError | null> } => {
      device.pushErrorScope("validation")
      device.pushErrorScope("out-of-memory")
      const gpu = createBuffer(bytes)
      write?.(gpu)
      const scopes = [device.popErrorScope(), device.popErrorScope()]
      return { gpu, trouble: Promise.all(scopes).then(([memory, other]) => memory ?? other ?? null) }
    }
    const first = attempt()
    const memory: Memory = {
      id: made.buffers,
      bytes,
      gpu: first.gpu,
      ready: false,
      failed: false,
      written: -1,
      freed: 0,
    }
    const confirm = async (): Promise<void> => {
      let trouble = await first.trouble
      if (trouble) {
        destroy(() => true)
        await device.queue.onSubmittedWorkDone()
        // What the host had written is not kept for a second attempt: it may be a whole model.
        if (!write) {
          const second = attempt()
          memory.gpu = second.gpu
          trouble = await second.trouble
        }
      }
      memory.failed = trouble !== null
      memory.ready = true
      if (memory.failed) withdraw(memory)
      timeline.wake()
    }
    // Rejects only when the device is lost, which is told elsewhere.
    confirm().catch(() => {})
    return memory
  }

  const listOf = (bytes: number): Memory[] | undefined => {
    const list = idle.get(bytes)
    if (list) list.asked = submissions
    return list?.blocks
  }

  /** The block of highest id that no recorded command uses: kernels take the lowest. */
  const takeSubmitted = (bytes: number): Memory | undefined => {
    const blocks = listOf(bytes)
    const at = blocks?.findIndex((memory) => memory.ready && memory.freed <= timeline.submitted()) ?? -1
    if (at < 0) return undefined
    return blocks?.splice(at, 1)[0]
  }

  const again = (memory: Memory): Memory => {
    idleBytes -= memory.bytes
    return reserve(memory)
  }

  return {
    take(bytes) {
      const memory = listOf(bytes)?.pop()
      return memory ? again(memory) : reserve(make(bytes))
    },
    takeWritten(bytes, write) {
      let memory = takeSubmitted(bytes)
      if (!memory && listOf(bytes)?.length) {
        timeline.submit()
        memory = takeSubmitted(bytes)
      }
      if (!memory) return reserve(make(bytes, write))
      write(memory.gpu)
      memory.written = -1
      return again(memory)
    },
    give(memory) {
      liveBytes -= memory.bytes
      if (memory.failed) return
      memory.freed = timeline.recorded()
      const list = idle.get(memory.bytes)
      if (!list) idle.set(memory.bytes, { blocks: [memory], asked: submissions })
      else {
        const at = list.blocks.findIndex((other) => other.id < memory.id)
        list.blocks.splice(at < 0 ? list.blocks.length : at, 0, memory)
      }
      idleBytes += memory.bytes
    },
    submitted() {
      submissions++
      if (submissions % 64 === 0) destroy((_, asked) => submissions - asked > patience)
      trim()
    },
    stats: () => ({ buffersMade: made.buffers, bytesMade: made.bytes, poolBytes: idleBytes, liveBytes }),
  }
}
