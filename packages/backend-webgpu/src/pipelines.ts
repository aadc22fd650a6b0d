/** Programs as pipelines, compiled beside each other and kept. Knows no buffers. */
/// <reference types="@webgpu/types" />
import { PeftError } from "@peftjs/core"
import { computeStage } from "./flags.ts"
import type { Program } from "./gpu.ts"
import { shaderOf } from "./shader.ts"

export interface Pipeline {
  /** Of the storage buffers; programs with as many inputs and outputs share it. */
  readonly layout: GPUBindGroupLayout
  /** Undefined while it compiles. */
  ready: GPUComputePipeline | undefined
  failed: PeftError | undefined
}

export interface Pipelines {
  /** Of the uniform block, at a dynamic offset. */
  readonly uniforms: GPUBindGroupLayout
  /** Starts to compile at the first call. */
  of(program: Program): Pipeline
  count(): number
}

/** `wake` is called when a pipeline has become ready, or has failed. */
export function createPipelines(device: GPUDevice, wake: () => void): Pipelines {
  const known = new Map<string, Pipeline>()
  const layouts = new Map<string, { buffers: GPUBindGroupLayout; pipeline: GPUPipelineLayout }>()
  const uniforms = device.createBindGroupLayout({
    entries: [{ binding: 0, visibility: computeStage, buffer: { type: "uniform", hasDynamicOffset: true } }],
  })

  // Given, and not "auto": a bind group of an automatic layout fits its own pipeline only, so none could be kept by its buffers alone.
  const layoutOf = ({ inputs, outputs }: Program): { buffers: GPUBindGroupLayout; pipeline: GPUPipelineLayout } => {
    const key = `${inputs.length},${outputs.length}`
    let layout = layouts.get(key)
    if (!layout) {
      const types = [...inputs.map(() => "read-only-storage" as const), ...outputs.map(() => "storage" as const)]
      const entries = types.map((type, binding) => ({ binding, visibility: computeStage, buffer: { type } }))
      const buffers = device.createBindGroupLayout({ entries })
      layout = { buffers, pipeline: device.createPipelineLayout({ bindGroupLayouts: [buffers, uniforms] }) }
      layouts.set(key, layout)
    }
    return layout
  }

  const compile = async (program: Program, layout: GPUPipelineLayout): Promise<GPUComputePipeline> => {
    device.pushErrorScope("validation")
    const module = device.createShaderModule({ label: program.key, code: shaderOf(program) })
    const pipeline = device.createComputePipelineAsync({
      label: program.key,
      layout,
      compute: { module, entryPoint: "main" },
    })
    const scope = device.popErrorScope()
    try {
      return await pipeline
    } catch (error) {
      const { messages } = await module.getCompilationInfo()
      const lines = messages.map((m) => `${m.type}, line ${m.lineNum}: ${m.message}`)
      throw kernelError(program.key, lines.length > 0 ? lines.join("; ") : (error as Error).message)
    } finally {
      await scope
    }
  }

  return {
    uniforms,
    count: () => known.size,
    of(program) {
      let pipeline = known.get(program.key)
      if (!pipeline) {
        const layout = layoutOf(program)
        const made: Pipeline = { layout: layout.buffers, ready: undefined, failed: undefined }
        compile(program, layout.pipeline)
          .then(
            (ready) => {
              made.ready = ready
            },
            (error: PeftError) => {
              made.failed = error
            },
          )
          .then(wake)
        known.set(program.key, made)
        pipeline = made
      }
      return pipeline
    },
  }
}

/** What went wrong, and in which kernel. */
export function kernelError(op: string, what: string): PeftError {
  return new PeftError(
    "E_KERNEL",
    `[backend-webgpu] ${op}: ${what}; use the CPU backend, and report this with what "peft doctor" prints`,
  )
}
