/** Bind groups by the buffers they bind: a training step binds the same ones again and again. */
/// <reference types="@webgpu/types" />
import type { Memory } from "./memory.ts"

export interface BindGroups {
  of(layout: GPUBindGroupLayout, memories: readonly Memory[], inputs: number): GPUBindGroup
  /** Drops those that bind destroyed blocks. */
  forget(ids: ReadonlySet<number>): void
  made(): number
}

/** Enough for a step of a model with a hundred layers; each takes about a kilobyte. */
const capacity = 16384

export function createBindGroups(device: GPUDevice): BindGroups {
  const kept = new Map<string, { group: GPUBindGroup; memories: readonly Memory[] }>()
  let made = 0
  return {
    made: () => made,
    of(layout, memories, inputs) {
      let key = `${inputs}`
      for (const { id } of memories) key += `,${id}`
      let entry = kept.get(key)
      if (!entry) {
        const entries = memories.map(({ gpu }, binding) => ({ binding, resource: { buffer: gpu } }))
        entry = { group: device.createBindGroup({ layout, entries }), memories }
        made++
        if (kept.size >= capacity) kept.delete(kept.keys().next().value as string)
        kept.set(key, entry)
      }
      return entry.group
    },
    forget(ids) {
      for (const [key, { memories }] of kept) if (memories.some(({ id }) => ids.has(id))) kept.delete(key)
    },
  }
}
