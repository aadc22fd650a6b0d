/** Any adapter that merges as a LoRA, with everything it trains beside. Must not know files or the command line. */
import {
  type Adapter,
  adapterOf,
  attach,
  type Model,
  makeAdapter,
  PeftError,
  setValues,
  type Tensor,
  trainedOverlays,
} from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { type LoraFactors, loraFactors } from "@peftjs/mora"

/** A layer of the LoRA. */
export interface ConvertedLayer {
  readonly path: string
  readonly rank: number
  /** ‖ΔW - BA‖ / ‖ΔW‖; 0 where the LoRA is exact. */
  readonly error: number
}

export interface Converted {
  /** The base with the LoRA on it. */
  readonly model: Model
  readonly layers: readonly ConvertedLayer[]
  /** The same error over all layers together. */
  readonly error: number
}

/**
 * The model's one adapter as a LoRA on the base.
 *
 * @param rank highest rank of layers; see `loraFactors`
 * @param progress told after every layer
 * @throws E_NOT_MERGEABLE, E_MERGE_BIAS, E_MERGE_NOT_FINITE
 */
export async function asLora(
  base: Model,
  adapted: Model,
  rank: number | undefined,
  progress: (done: number, of: number) => void = () => {},
): Promise<Converted> {
  const from = adapterOf(adapted)
  const found = new Map<string, LoraFactors>()
  const paths = [...from.sites.keys()]
  for (const path of paths) {
    found.set(path, await loraFactors(adapted, path, rank === undefined ? {} : { rank }))
    progress(found.size, paths.length)
  }
  const model = withLora(base, from, found)
  await copyBeside(adapted, from, model)
  const layers = [...found].map(([path, { rank, error }]) => ({ path, rank, error }))
  return { model, layers, error: overall(found) }
}

/** The LoRA on the base; alpha is the rank everywhere, so that the scale is 1. */
function withLora(base: Model, from: Adapter, factors: ReadonlyMap<string, LoraFactors>): Model {
  const { r, pattern } = ranksOf(factors)
  const method = lora({ r, alpha: r, rankPattern: pattern, alphaPattern: pattern })
  const { bias, ...beside } = from.overlayOptions
  const overlays = {
    ...beside,
    ...(bias === undefined ? {} : { bias: bias === `${from.method.name}_only` ? "lora_only" : bias }),
  }
  const adapter = makeAdapter(base, method, [...factors.keys()], { name: "default", seed: 0, overlays })
  const model = attach(base, adapter)
  for (const [path, { params }] of adapter.sites) {
    const { A, B } = factors.get(path) as LoraFactors
    setValues(params.A?.value as Tensor, A)
    setValues(params.B?.value as Tensor, B)
  }
  return model
}

/** The commonest rank, and a pattern for the layers of another: by their last name where all layers of that name agree, else by path. */
function ranksOf(factors: ReadonlyMap<string, LoraFactors>): { r: number; pattern: Record<string, number> } {
  const last = (path: string): string => path.split(".").at(-1) as string
  const counts = new Map<number, number>()
  for (const { rank } of factors.values()) counts.set(rank, (counts.get(rank) ?? 0) + 1)
  const [r = 1] = [...counts].sort(([a, n], [b, m]) => m - n || a - b)[0] ?? []
  const agreed = new Map<string, number | undefined>()
  for (const [path, { rank }] of factors) {
    const before = agreed.get(last(path)) ?? rank
    agreed.set(last(path), agreed.has(last(path)) && before !== rank ? undefined : rank)
  }
  const others = [...factors].filter(([, { rank }]) => rank !== r)
  const named = others.map(([path, { rank }]): [string, number] => [
    agreed.get(last(path)) === rank ? last(path) : path.replaceAll(".", "\\."),
    rank,
  ])
  return { r, pattern: Object.fromEntries(named) }
}

/** The values of biases, whole modules and tokens. */
async function copyBeside(adapted: Model, from: Adapter, model: Model): Promise<void> {
  const values = new Map(trainedOverlays(adapted, from).map(({ name, tensors }) => [name, tensors]))
  for (const { name, tensors } of trainedOverlays(model, adapterOf(model))) {
    const given = values.get(name)
    if (given?.length !== tensors.length)
      throw new PeftError("E_INTERNAL", `internal: ${name} is trained by one adapter and not by the other`)
    for (const [i, part] of tensors.entries()) setValues(part, (await (given[i] as Tensor).data()) as Float32Array)
  }
}

/** Of the layers' updates as if they were one matrix. */
function overall(factors: ReadonlyMap<string, LoraFactors>): number {
  let [missed, all] = [0, 0]
  for (const { norm, error } of factors.values()) {
    missed += (norm * error) ** 2
    all += norm * norm
  }
  return all === 0 ? 0 : Math.sqrt(missed / all)
}
