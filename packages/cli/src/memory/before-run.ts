/** What a run is told about memory before it begins. A run whose need cannot be estimated runs all the same. */
import type { Backend, Tokenizer } from "@peftjs/core"
import type { Data } from "@peftjs/train"
import { type BaseSource, baseModel } from "../base-model.ts"
import { type MethodFlags, makeTrainable } from "../trainable.ts"
import { type EstimateInput, estimateMemory, longestBatch, type MemoryEstimate } from "./estimate.ts"
import { headersOnly } from "./headers-only.ts"
import { shapeBackend } from "./shape-backend.ts"

export interface Planned extends Pick<EstimateInput, "options" | "process" | "team"> {
  readonly source: BaseSource
  readonly making: MethodFlags
  /** Where the run will run. */
  readonly backend: Backend
  readonly data: Data
  readonly tokenizer: Tokenizer | undefined
}

/** The estimate, or why there is none. */
export async function estimateRun(planned: Planned): Promise<MemoryEstimate | { readonly problem: string }> {
  const { source, making, backend, data, tokenizer, ...rest } = planned
  try {
    const shapes = shapeBackend(backend)
    const base = await baseModel(source, {
      ...{ backend: shapes, seed: making.seed },
      // The tokenizer is there already.
      through: (files) => ({
        ...headersOnly(files),
        has: async (path) => path !== "tokenizer.json" && files.has(path),
      }),
    })
    const attach: EstimateInput["attach"] = (observed) => makeTrainable(observed, making, () => {})
    const batch = longestBatch(data, tokenizer, rest.options)
    return await estimateMemory({ ...rest, base, backend: shapes, batch, attach })
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) }
  }
}
