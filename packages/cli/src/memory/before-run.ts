/** The line about memory that a run begins with. A run whose need cannot be estimated runs all the same. */
import type { Backend, Tokenizer } from "@peftjs/core"
import type { Data } from "@peftjs/train"
import { type BaseSource, baseModel } from "../base-model.ts"
import { type MethodFlags, makeTrainable } from "../trainable.ts"
import { describeEstimate, type EstimateInput, estimateMemory, longestBatch } from "./estimate.ts"
import { headersOnly } from "./headers-only.ts"
import { shapeBackend } from "./shape-backend.ts"

export interface Planned extends Pick<EstimateInput, "options" | "process"> {
  readonly source: BaseSource
  readonly making: MethodFlags
  /** Where the run will run. */
  readonly backend: Backend
  readonly data: Data
  readonly tokenizer: Tokenizer | undefined
}

/** "about 812 MB of memory for 4 rows of 256 tokens". */
export async function sayMemory({ source, making, backend, data, tokenizer, ...rest }: Planned): Promise<string> {
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
    return describeEstimate(await estimateMemory({ ...rest, base, backend: shapes, batch, attach }))
  } catch (error) {
    return `memory not estimated: ${error instanceof Error ? error.message : error}`
  }
}
