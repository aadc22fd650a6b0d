/**
 * How much memory a training run needs. No formula of layers and widths, which would know one architecture and one method and be wrong
 * about the next: one optimizer step of the very program is run on a backend that only counts (shape-backend.ts), so that weights as
 * they are stored, what a method keeps, recomputation, chunks of the vocabulary and fused kernels are all as they will be.
 *
 *   total = process + max(weights + trainable + optimizer + activations,
 *                         weights + trainable + optimizer + kept + logits)
 *
 * - process: what Node, the kernels' library and the tokenizer take, without the model's weights; measured.
 * - activations: the most that a pass through the layers, forward or backward, holds at once beyond the first three: what was kept for
 *   the backward pass, gradients, and what is being worked on.
 * - kept: what the forward pass has left for the backward pass when it reaches the head.
 * - logits: the most that the head and the loss hold beyond that, forward or backward.
 * Not counted: memory that the backend has been given back and will give out again, workspace inside kernels, and the garbage of
 * reading files, which grows with the model. Against the peak it is therefore low: SmolLM2-135M with LoRA, 4 rows of 256 tokens, 1,984 of
 * 2,044 MB (0.97); one row of 64 tokens, checkpointed, 573 of 644 MB (0.89); a Llama of 156,480 parameters, 117 of 128 MB (0.91); one of
 * 1.2 billion in nf4, one row of 64 tokens, checkpointed, 1,229 of 1,781 MB (0.69).
 */
import { apply, bindModel, detachOverlays, type Model, mergePlan, type Op, sizeOf, unfreeze } from "@peftjs/core"
import type { Data } from "@peftjs/train"
import { encodeRow, jsonl, type TrainOptions, train } from "@peftjs/train"
import type { ShapeBackend } from "./shape-backend.ts"

/** Bytes. */
export interface MemoryEstimate {
  readonly process: number
  readonly weights: number
  readonly trainable: number
  readonly optimizer: number
  /** What restarts put before the base, once the first has come; absent without them. */
  readonly merged?: number
  readonly activations: number
  readonly logits: number
  readonly total: number
  /** The batch this is for. */
  readonly rows: number
  readonly tokens: number
}

export interface EstimateInput {
  /** A model on `backend`. */
  readonly base: Model
  readonly backend: ShapeBackend
  /** What makes it trainable, as in the run itself. */
  attach(base: Model): Promise<Model>
  readonly batch: readonly object[]
  readonly options: TrainOptions & { readonly batchSize: number; readonly gradientAccumulationSteps: number }
  /** Bytes the process has without the model. */
  readonly process: number
  /** Replicas that share the rows, how many of them are threads of this process, and whether those have one base; one replica unless told otherwise. */
  readonly team?: { readonly size: number; readonly here: number; readonly oneBase: boolean }
}

/**
 * Runs the step, with restarts as it is in the part of the run that needs most, for the thread that has most rows. Throws what making the
 * model trainable throws, and what training does.
 */
export async function estimateMemory(input: EstimateInput): Promise<MemoryEstimate> {
  const { batch, team = { size: 1, here: 1, oneBase: true } } = input
  const { size, here, oneBase } = team
  if (size === 1) return estimateRun(input)
  const own = await estimateRun({ ...input, batch: batch.slice(0, Math.ceil(batch.length / size)) })
  const { process, weights, rows: _, tokens, total, ...parts } = own
  const base = oneBase ? weights : here * weights
  const each = Object.fromEntries(Object.entries(parts).map(([part, bytes]) => [part, here * bytes]))
  return {
    ...own,
    ...(each as typeof parts),
    ...{ weights: base, total: process + base + here * (total - process - weights), rows: batch.length, tokens },
  }
}

async function estimateRun(input: EstimateInput): Promise<MemoryEstimate> {
  // One step is no run: nothing is saved, and no schedule has its length.
  const { restart, saveSteps: _, scheduler: __, ...options } = input.options
  if (!restart) return estimateStep({ ...input, options })
  const first = (restart.fullSteps ?? 0) > 0 ? await estimateFull({ ...input, options }) : undefined
  let adapted = input.base
  const attach = async (base: Model): Promise<Model> => {
    adapted = await input.attach(base)
    return adapted
  }
  const later = await estimateStep({ ...input, options, attach })
  const { changed, definition } = mergePlan(adapted, { overlays: false })
  const values = [...definition.params].filter(([path]) => first || changed.has(path))
  const merged = values.reduce((n, [, { shape }]) => n + 4 * sizeOf(shape), 0)
  return first && first.total > later.total + merged ? first : { ...later, merged, total: later.total + merged }
}

async function estimateFull(input: EstimateInput): Promise<MemoryEstimate> {
  let made = input.base
  const attach = async (base: Model): Promise<Model> => {
    made = unfreeze(base)
    return made
  }
  const found = await estimateStep({ ...input, attach })
  detachOverlays(made)
  return found
}

async function estimateStep(input: EstimateInput): Promise<MemoryEstimate> {
  const { base, backend, attach, batch, options, process } = input
  const weights = backend.live()
  const seen = { constant: 0, kept: 0, layers: 0, logits: 0 }
  const model = await attach(observed(base, backend, seen))
  const trainable = backend.live() - weights
  const accumulated = Math.min(2, options.gradientAccumulationSteps)
  await train(model, jsonl(Array(accumulated).fill(batch).flat(), "the longest rows"), {
    ...options,
    ...{ maxSteps: 1, batchSize: batch.length, gradientAccumulationSteps: accumulated, shuffle: false },
  })
  seen.layers = Math.max(seen.layers, backend.takePeak())
  const optimizer = seen.constant - weights - trainable
  const tokens = Math.max(...batch.map((row) => (row as { input_ids: number[] }).input_ids.length))
  return {
    process,
    weights,
    trainable,
    optimizer,
    activations: seen.layers - seen.constant,
    logits: Math.max(0, seen.logits - seen.constant - seen.kept),
    total: process + Math.max(seen.layers, seen.logits),
    rows: batch.length,
    tokens,
  }
}

/** The model, noting how much there is where its layers begin and end, in both directions. */
function observed(
  { definition }: Model,
  backend: ShapeBackend,
  seen: { constant: number; kept: number; layers: number; logits: number },
): Model {
  // Between the layers and the head: its gradient is asked for when that of the head is done.
  const border: Op<null> = {
    forward: ([x]) => {
      const copy = x?.mul(1)
      if (!copy) throw new Error("no hidden states")
      return copy
    },
    saves: () => [],
    gradient: ({ dy }) => {
      seen.logits = Math.max(seen.logits, backend.takePeak())
      return [dy]
    },
  }
  return bindModel({
    ...definition,
    hidden(batch, run) {
      const before = backend.live()
      if (seen.constant === 0) seen.constant = before
      backend.takePeak()
      const states = definition.hidden(batch, run)
      seen.kept = backend.live() - before
      seen.layers = Math.max(seen.layers, backend.takePeak())
      return apply(border, [states], null)
    },
  })
}

/** Rows that are looked at for the longest ones. */
const sampled = 400

/**
 * The batch that needs most: the longest of the rows, all as long as the longest. Throws what encoding throws.
 */
export function longestBatch(
  data: Data,
  tokenizer: Model["tokenizer"],
  options: TrainOptions & { readonly batchSize: number },
): object[] {
  const step = Math.max(1, Math.floor(data.rows.length / sampled))
  const encoded = data.rows
    .filter((_, i) => i % step === 0)
    .map((row, i) => encodeRow(row, tokenizer, options, `${data.name}, row ${i * step + 1}`))
    .sort((a, b) => b.ids.length - a.ids.length)
  const batch = encoded.slice(0, Math.min(options.batchSize, data.rows.length))
  return batch.map(({ ids, labels }) => ({ input_ids: ids, labels }))
}

/** Where there is no data: rows as long as they may be, of which every token is learnt. */
export function fullBatch(
  options: { readonly batchSize: number; readonly maxLength?: number },
  { n_positions }: Readonly<Record<string, unknown>>,
): object[] {
  // A model with learned positions has no longer rows.
  const positions = typeof n_positions === "number" ? n_positions : Number.POSITIVE_INFINITY
  const ids = Array<number>(Math.min(options.maxLength ?? 256, positions)).fill(0)
  return Array.from({ length: options.batchSize }, () => ({ input_ids: ids, labels: ids }))
}

/** What an estimate consists of, in the order of a run, in words. */
export const estimateParts: Readonly<Record<Exclude<keyof MemoryEstimate, "total" | "rows" | "tokens">, string>> = {
  process: "Node, the kernels and the tokenizer",
  weights: "of the base, as they are stored",
  trainable: "what is trained",
  optimizer: "its averages",
  merged: "the layers that restarts merge into: f32, whatever the base is stored in, which stays beside them",
  activations: "of the layers, kept for the backward pass or worked on, with gradients",
  logits: "and the loss, where that moment needs more",
}

/** "about 812 MB of memory for 4 rows of 256 tokens: process 101, weights 258 …". */
export function describeEstimate(estimate: MemoryEstimate): string {
  const { total, rows, tokens } = estimate
  const parts = (Object.keys(estimateParts) as (keyof typeof estimateParts)[]).flatMap((part) => {
    const bytes = estimate[part]
    return bytes === undefined ? [] : `${part} ${megabytes(bytes)}`
  })
  return `about ${megabytes(total)} MB of memory for ${rows} rows of ${tokens} tokens: ${parts.join(", ")}`
}

const megabytes = (bytes: number): string => Math.round(bytes / 2 ** 20).toLocaleString("en")

export const mebibytes = (bytes: number): number => Math.round((10 * bytes) / 2 ** 20) / 10
