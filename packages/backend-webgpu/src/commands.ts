/**
 * Commands in the order they were given, submitted many at a time. A command waits for its pipeline and its memory, and those behind it wait too;
 * meanwhile their pipelines compile beside each other. Knows no element types.
 */
/// <reference types="@webgpu/types" />
import { PeftError } from "@peftjs/core"
import type { BindGroups } from "./bind-groups.ts"
import type { Faults } from "./faults.ts"
import type { Program } from "./gpu.ts"
import type { Memory } from "./memory.ts"
import { kernelError, type Pipeline } from "./pipelines.ts"
import type { Landing } from "./readback.ts"
import type { Uniforms } from "./uniforms.ts"

export interface Dispatch {
  readonly kind: "dispatch"
  readonly program: Program
  readonly pipeline: Pipeline
  /** Inputs, then outputs. */
  readonly memories: readonly Memory[]
  readonly params: readonly number[]
  readonly groups: readonly [x: number, y: number, z: number]
}

export interface Copy {
  readonly kind: "copy"
  readonly memories: readonly [Memory]
  readonly target: Landing
}

export type Command = Dispatch | Copy

export interface Commands {
  /** Its number. */
  add(command: Command): number
  recorded(): number
  submitted(): number
  /** Submits what is recorded, as far as it is ready. */
  submit(): void
  /** Goes on with what waited. */
  wake(): void
  /** Submits what is recorded, and resolves when that is done. */
  whenSubmitted(): Promise<void>
  /** Resolves when the device has accepted or refused everything submitted. */
  whenAccepted(): Promise<void>
  /** Commands that the device is known to have accepted or refused. */
  accepted(): number
  counts(): { dispatches: number; submissions: number }
}

/** Dispatches of one submission. */
export const batchSize = 128
/** Bytes of uniform blocks of one submission. */
export const uniformBytes: number = batchSize * 512

export interface CommandParts {
  readonly device: GPUDevice
  readonly faults: Faults
  readonly uniforms: Uniforms
  readonly bindGroups: BindGroups
  readonly afterSubmission: () => void
}

export function createCommands(parts: CommandParts): Commands {
  const { device, faults, uniforms, bindGroups, afterSubmission } = parts
  let queue: Command[] = []
  let head = 0
  let submitted = 0
  let wanted = 0
  let accepted = 0
  let accepting: Promise<void> = Promise.resolve()
  let waiting: { until: number; resolve: () => void }[] = []
  const counts = { dispatches: 0, submissions: 0 }
  const recorded = (): number => submitted + queue.length - head

  const ready = (command: Command): boolean => {
    if (!command.memories.every((memory) => memory.ready)) return false
    if (command.kind === "copy") return command.target.ready
    return command.pipeline.ready !== undefined || command.pipeline.failed !== undefined
  }

  /** Why a command cannot run. */
  const broken = (command: Command): PeftError | undefined => {
    const memory = command.memories.find(({ failed }) => failed)
    if (memory) return outOfMemory(`${memory.bytes} bytes of ${describe(command)}`)
    return command.kind === "dispatch" ? command.pipeline.failed : undefined
  }

  const encode = (batch: readonly Command[]): GPUCommandBuffer => {
    const encoder = device.createCommandEncoder()
    let pass: GPUComputePassEncoder | undefined
    let pipeline: Pipeline | undefined
    let offset = 0
    for (const command of batch) {
      if (command.kind === "copy") {
        pass?.end()
        pass = undefined
        encoder.copyBufferToBuffer(command.memories[0].gpu, 0, command.target.gpu, 0, command.target.gpu.size)
        continue
      }
      const { program, memories, params, groups } = command
      if (!pass) {
        pass = encoder.beginComputePass()
        pipeline = undefined
      }
      if (command.pipeline !== pipeline) {
        pipeline = command.pipeline
        pass.setPipeline(pipeline.ready as GPUComputePipeline)
      }
      const size = uniforms.sizeOf(program)
      uniforms.put(offset, program, params, groups[0])
      pass.setBindGroup(0, bindGroups.of(command.pipeline.layout, memories, program.inputs.length))
      pass.setBindGroup(1, uniforms.group(size), [offset])
      pass.dispatchWorkgroups(...groups)
      offset += size
      counts.dispatches++
    }
    pass?.end()
    uniforms.write(offset)
    return encoder.finish()
  }

  const submitBatch = (batch: readonly Command[], first: number): void => {
    device.pushErrorScope("validation")
    device.queue.submit([encode(batch)])
    counts.submissions++
    const scope = device.popErrorScope()
    const before = accepting
    accepting = (async () => {
      const error = await scope.catch(() => null)
      await before
      accepted = first + batch.length
      if (!error) return
      const ops = new Set(batch.map((command) => describe(command)))
      faults.note(first, kernelError(`one of ${[...ops].slice(0, 8).join(", ")}`, error.message))
    })()
  }

  /** How many commands the next batch has: a full one, or all that are wanted; 0 while one of them is not ready. */
  const nextBatch = (): number => {
    let bytes = 0
    let count = 0
    for (const command of queue.slice(head, head + batchSize)) {
      if (!ready(command)) return submitted + count < wanted ? 0 : count
      if (command.kind === "dispatch") bytes += uniforms.sizeOf(command.program)
      if (bytes > uniformBytes) break
      count++
    }
    return count
  }

  /** Submits a batch. False when there is none yet. */
  const step = (): boolean => {
    const count = nextBatch()
    if (count === 0) return false
    const batch: Command[] = []
    for (const [i, command] of queue.slice(head, head + count).entries()) {
      const error = broken(command)
      if (error) faults.note(submitted + i, error)
      // What comes after a fault is spoiled anyway: nothing runs until the program was told.
      if (faults.pending()) continue
      // A read without a place for its result concerns nobody else.
      if (command.kind === "dispatch" || !command.target.failed) batch.push(command)
    }
    if (batch.length > 0) submitBatch(batch, submitted)
    head += count
    submitted += count
    if (head > 4096 || head === queue.length) {
      queue = queue.slice(head)
      head = 0
    }
    if (batch.length > 0) afterSubmission()
    return true
  }

  const pump = (): void => {
    while (submitted < wanted && !faults.isLost() && step()) {}
    const done = waiting.filter(({ until }) => until <= submitted)
    if (done.length === 0) return
    waiting = waiting.filter(({ until }) => until > submitted)
    for (const { resolve } of done) resolve()
  }

  const submit = (): void => {
    wanted = recorded()
    pump()
  }

  return {
    add(command) {
      const number = recorded()
      queue.push(command)
      if (recorded() - Math.max(wanted, submitted) >= batchSize) submit()
      return number
    },
    recorded,
    submitted: () => submitted,
    submit,
    wake: pump,
    whenSubmitted() {
      submit()
      const until = recorded()
      return new Promise((resolve) => {
        if (submitted >= until) resolve()
        else waiting.push({ until, resolve })
      })
    },
    whenAccepted: () => accepting,
    accepted: () => accepted,
    counts: () => ({ ...counts }),
  }
}

/** A command for messages: the kernel with what it was called with. */
export function describe(command: Command | Pick<Dispatch, "program" | "params" | "groups">): string {
  if ("target" in command) return "a read"
  const { program, params, groups } = command
  const values = program.params.map(({ name }, i) => `${name} ${params[i]}`)
  return `${program.key} (${[...values, `groups ${groups.join("x")}`].join(", ")})`
}

/** `what` needed it. */
export function outOfMemory(what: string): PeftError {
  return new PeftError(
    "E_OUT_OF_MEMORY",
    `[backend-webgpu] no device memory for ${what}, though what was kept for reuse was given back; use a smaller batch or shorter sequences`,
  )
}
