/** Singular values of what fine-tuning has added to each layer, and figures of them. Must not know files, tables or plots. */
import { type Adapter, adapterOf, engineOf, hostValues, type Model, PeftError, type Site, weightAt } from "@peftjs/core"
import { type LoraOptions, loraScale } from "@peftjs/lora"
import { deltaSpectrum, singularValues, singularValuesOfProduct } from "@peftjs/mora"

export interface LayerSpectrum {
  readonly path: string
  /** How many singular values there are: the smaller side of the weight. */
  readonly size: number
  /** Descending; the rest, up to `size`, are zero. */
  readonly values: Float64Array
}

export interface Figures {
  /** Singular values there are. */
  readonly size: number
  /** Of these, those above the threshold. */
  readonly above: number
  /** e to the entropy of the values divided by their sum (Roy & Vetterli 2007); 0 for an update of zero. */
  readonly effective_rank: number
  /** Frobenius. */
  readonly norm: number
  readonly largest: number
}

/** Figures of all layers of one name, "q_proj": means over the layers. */
export interface ProjectionSpectrum extends Figures {
  readonly projection: string
  readonly layers: number
  /** The mean of the first, the second … singular values, as far as they are not all zero. */
  readonly curve: readonly number[]
}

type Progress = (done: number, of: number) => void

/** Whether an adapter's update can be told without the base's weights. */
export function standsAlone({ method, sites }: Adapter): boolean {
  return [...sites.values()].every(({ base }) => !base) && (method.name === "mora" || isPlainLora(method))
}

const isPlainLora = ({ name, config }: Adapter["method"]): boolean => name === "lora" && config.dora === false

/** Of a model's one adapter. Throws E_NOT_MERGEABLE, E_MERGE_BIAS, E_MERGE_NOT_FINITE, E_NOT_FINITE. */
export async function adapterSpectra(model: Model, progress: Progress): Promise<LayerSpectrum[]> {
  const { method, sites } = adapterOf(model)
  const found: LayerSpectrum[] = []
  for (const [path, { params, base }] of sites) {
    const { in: width, out } = model.sites.get(path) as Site
    const { A, B } = params
    const product = isPlainLora(method) && !base && A && B
    const values = product
      ? await scaledProduct(A.value.data(), B.value.data(), A.value.shape[0] as number, method.config, path)
      : await deltaSpectrum(model, path)
    found.push(checked({ path, size: Math.min(width, out), values }))
    progress(found.length, sites.size)
  }
  return found
}

async function scaledProduct(
  a: Promise<ArrayLike<number>>,
  b: Promise<ArrayLike<number>>,
  rank: number,
  config: Readonly<Record<string, unknown>>,
  path: string,
): Promise<Float64Array> {
  const scale = Math.abs(loraScale(config as unknown as Required<LoraOptions>, path))
  return singularValuesOfProduct(await b, await a, rank).map((s) => s * scale)
}

/** Of every linear layer but the head, between two models of one shape. Throws E_WEIGHTS where the shapes differ, E_NOT_FINITE. */
export async function modelSpectra(base: Model, tuned: Model, progress: Progress): Promise<LayerSpectrum[]> {
  const sites = [...base.sites.values()].filter(({ kind, path }) => kind === "linear" && path !== base.head)
  const found: LayerSpectrum[] = []
  for (const { path, in: width, out } of sites) {
    const other = tuned.sites.get(path)
    if (other?.in !== width || other.out !== out) {
      throw new PeftError(
        "E_WEIGHTS",
        `[cli] ${path} is [${out}, ${width}] in the base and ${other ? `[${other.out}, ${other.in}]` : "missing"} in the other model; are they one architecture?`,
      )
    }
    const [before, after] = [await weightOf(base, path), await weightOf(tuned, path)]
    const delta = after.map((w, i) => w - (before[i] as number))
    found.push(checked({ path, size: Math.min(width, out), values: singularValues(delta, out, width) }))
    progress(found.length, sites.length)
  }
  return found
}

function weightOf({ definition, view, sites, backend }: Model, path: string): Promise<Float32Array> {
  return hostValues(engineOf(backend), weightAt(definition, view, sites.get(path) as Site))
}

function checked(layer: LayerSpectrum): LayerSpectrum {
  if (layer.values.every(Number.isFinite)) return layer
  throw new PeftError("E_NOT_FINITE", `[cli] the update at ${layer.path} holds NaN or Inf; use an earlier checkpoint`)
}

export function figuresOf({ size, values }: LayerSpectrum, threshold: number): Figures {
  const sum = values.reduce((a, b) => a + b, 0)
  const entropy = values.reduce((e, s) => (s > 0 ? e - (s / sum) * Math.log(s / sum) : e), 0)
  return {
    size,
    above: values.filter((s) => s > threshold).length,
    effective_rank: sum > 0 ? Math.exp(entropy) : 0,
    norm: Math.sqrt(values.reduce((a, s) => a + s * s, 0)),
    largest: values[0] ?? 0,
  }
}

/** In the order of the model's layers. */
export function byProjection(layers: readonly LayerSpectrum[], threshold: number): ProjectionSpectrum[] {
  const groups = new Map<string, LayerSpectrum[]>()
  for (const layer of layers) {
    const name = layer.path.split(".").at(-1) as string
    groups.set(name, [...(groups.get(name) ?? []), layer])
  }
  return [...groups].map(([projection, own]) => {
    const mean = (of: (layer: LayerSpectrum) => number): number => own.reduce((sum, l) => sum + of(l), 0) / own.length
    const figures = new Map(own.map((layer) => [layer, figuresOf(layer, threshold)]))
    const figure = (key: keyof Figures): number => mean((layer) => (figures.get(layer) as Figures)[key])
    const length = Math.max(...own.map(({ values }) => values.length))
    const curve = Array.from({ length }, (_, i) => mean(({ values }) => values[i] ?? 0))
    return {
      projection,
      layers: own.length,
      ...{ size: figure("size"), above: figure("above"), effective_rank: figure("effective_rank") },
      ...{ norm: figure("norm"), largest: figure("largest") },
      curve,
    }
  })
}
