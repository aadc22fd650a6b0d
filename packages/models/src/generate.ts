/**
 * Continuing prompts token by token with a cache. Chooses the likeliest token; another choice is another `pick`.
 * Knows ids only: text is the tokenizer's business.
 */
import type { Cache, Model } from "@peftjs/core"
import { free, PeftError } from "@peftjs/core"

/** Chooses the next id from a row's logits [vocab]; `ids` are the row's prompt and what was made of it, without padding. */
export type Pick = (logits: Float32Array, row: number, ids: readonly number[]) => number

export interface GenerateOptions {
  readonly maxNewTokens: number
  /** Ends a row; the tokenizer's unless told otherwise, null for none. */
  readonly eosTokenId?: number | readonly number[] | null
  /** Fills rows that have ended; unless told otherwise the tokenizer's or config.json's pad, else eos, else 0. */
  readonly padTokenId?: number
  /** The likeliest id unless told otherwise. */
  readonly pick?: Pick
  /** Told every new id of a row that has not ended; true ends the row with it. */
  readonly ends?: (id: number, row: number) => boolean
  /** Already holds the first ids of every prompt; filled further, with all but the last new id, and left to the caller. */
  readonly cache?: Cache
  /** Called after every step with one id per row: pad for rows that have ended. */
  readonly onToken?: (ids: readonly number[]) => void
  /** Ends generation between two tokens by throwing the signal's reason. */
  readonly signal?: AbortSignal
}

/** The id with the largest logit, the first among equals. Throws E_NOT_FINITE when no logit is a number. */
export const greedy: Pick = (logits) => {
  let best = -1
  let top = Number.NEGATIVE_INFINITY
  logits.forEach((logit, id) => {
    if (logit > top || (best < 0 && logit === top)) [best, top] = [id, logit]
  })
  if (best >= 0) return best
  throw new PeftError("E_NOT_FINITE", "[models] every logit is NaN; the weights or the adapter are broken")
}

/**
 * New ids for each prompt: up to maxNewTokens, equally many per row, padded after a row's end. Prompts may differ in length.
 * Throws E_OPTION, E_PROMPT (no prompts, or an empty one), E_TOKEN_ID, the signal's reason. Everything made on the way is freed.
 */
export async function generate(
  model: Model,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions,
): Promise<number[][]> {
  const { maxNewTokens, pick = greedy, ends: endsRow, onToken, signal } = options
  const ends = endsOf(model, options)
  const configured = model.config.pad_token_id
  const known = model.tokenizer?.padTokenId ?? (typeof configured === "number" ? configured : undefined)
  const pad = options.padTokenId ?? known ?? ends[0] ?? 0
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1) {
    throw new PeftError("E_OPTION", `[models] maxNewTokens is ${maxNewTokens}; it must be a whole number, at least 1`)
  }
  const cached = options.cache?.length ?? 0
  if (prompts.length === 0 || prompts.some((prompt) => prompt.length <= cached)) {
    const more = cached === 0 ? "" : ` beyond the ${cached} in the cache`
    throw new PeftError("E_PROMPT", `[models] every prompt needs at least one token${more}, and there must be one`)
  }
  const batch = prompts.length
  const width = Math.max(...prompts.map((prompt) => prompt.length))
  const padding = prompts.map((prompt) => Array<number>(width - prompt.length).fill(0))
  // Padding stands between what is cached and what is not, so that every row ends with its prompt.
  const mask = prompts.map((prompt, b) => [
    ...prompt.slice(0, cached).map(() => 1),
    ...(padding[b] as number[]),
    ...prompt.slice(cached).map(() => 1),
  ])
  let ids = prompts.map((prompt, b) => [...(padding[b] as number[]).fill(pad), ...prompt.slice(cached)])
  // Counted from the first real token; padding is hidden, so its position does not matter.
  let positions = ids.map((row, b) => row.map((_, i) => cached + Math.max(0, i - (padding[b] as number[]).length)))
  const made = prompts.map((): number[] => [])
  const whole = prompts.map((prompt) => [...prompt])
  const ended = prompts.map(() => false)
  const cache = options.cache ?? model.makeCache()
  try {
    while ((made[0]?.length ?? 0) < maxNewTokens && !ended.every(Boolean)) {
      signal?.throwIfAborted()
      const logits = await lastLogits(model, { ids, positions, mask, batch, cache })
      const vocab = logits.length / batch
      const next = ended.map((done, row) =>
        done ? pad : pick(logits.subarray(row * vocab, (row + 1) * vocab), row, whole[row] as number[]),
      )
      next.forEach((id, row) => {
        made[row]?.push(id)
        whole[row]?.push(id)
        mask[row]?.push(1)
        if (!ended[row] && (ends.includes(id) || endsRow?.(id, row))) ended[row] = true
      })
      onToken?.(next)
      ids = next.map((id) => [id])
      positions = positions.map((row) => [(row.at(-1) as number) + 1])
      // Lets timers, signals and other work in between: nothing before has waited for more than a microtask on a CPU.
      await new Promise((resolve) => setTimeout(resolve))
    }
    return made
  } finally {
    if (!options.cache) cache.free()
  }
}

/** The ids that end a row. */
export function endsOf(
  model: Model,
  { eosTokenId }: { readonly eosTokenId?: GenerateOptions["eosTokenId"] },
): readonly number[] {
  if (eosTokenId === null) return []
  return [eosTokenId ?? model.tokenizer?.eosTokenId ?? []].flat()
}

interface Step {
  readonly ids: readonly (readonly number[])[]
  readonly positions: readonly (readonly number[])[]
  readonly mask: readonly (readonly number[])[]
  readonly batch: number
  readonly cache: ReturnType<Model["makeCache"]>
}

async function lastLogits(model: Model, { ids, positions, mask, batch, cache }: Step): Promise<Float32Array> {
  const flat = (rows: readonly (readonly number[])[]): Int32Array => Int32Array.from(rows.flat())
  const tokens = ids[0]?.length ?? 0
  const logits = model.lastLogits({
    ids: flat(ids),
    positions: flat(positions),
    mask: flat(mask),
    batch,
    tokens,
    cache,
  })
  try {
    return (await logits.data()) as Float32Array
  } finally {
    free(logits)
  }
}
