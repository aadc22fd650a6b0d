/** Adding layers to a blueprint: a parameter and its site in one go. Knows no architecture. */
import type { ParamSpec, SiteSpec } from "./architecture.ts"

/** What a blueprint's layers are collected in, in the order of the model. */
export interface Layers {
  readonly params: Map<string, ParamSpec>
  readonly sites: SiteSpec[]
}

export interface LinearOptions {
  readonly bias: boolean
  /** Files hold it as [in, out]. */
  readonly fanInFanOut?: boolean
  /** Standard deviation of its random start, where it is not the model's. */
  readonly std?: number
}

/** A linear layer [out, in]. */
export function addLinear(
  { params, sites }: Layers,
  path: string,
  out: number,
  width: number,
  { bias, fanInFanOut, std }: LinearOptions,
): void {
  const turned = fanInFanOut ? ({ fanInFanOut: true } as const) : {}
  params.set(`${path}.weight`, {
    shape: [out, width],
    init: "normal",
    ...turned,
    ...(std === undefined ? {} : { std }),
  })
  if (bias) params.set(`${path}.bias`, { shape: [out], init: "zeros" })
  sites.push({
    path,
    kind: "linear",
    in: width,
    out,
    param: `${path}.weight`,
    ...(bias ? { bias: `${path}.bias` } : {}),
    ...turned,
  })
}

/** An embedding table [ids, width]; the padding's row starts at 0 and is not trained. */
export function addTable(
  { params, sites }: Layers,
  path: string,
  ids: number,
  width: number,
  paddingId?: number,
): void {
  const param = `${path}.weight`
  const [zeroRow, padding] = paddingId === undefined ? [{}, {}] : [{ zeroRow: paddingId }, { paddingId }]
  params.set(param, { shape: [ids, width], init: "normal", ...zeroRow })
  sites.push({ path, kind: "embedding", in: ids, out: width, param, ...padding })
}

/** What makes logits: a layer of its own without bias, or the embedding again. The embedding must be there. */
export function addHead(layers: Layers, path: string, embedding: string, tied: boolean): void {
  const param = `${embedding}.weight`
  const [vocab, hidden] = (layers.params.get(param) as ParamSpec).shape as readonly [number, number]
  if (tied) layers.sites.push({ path, kind: "linear", in: hidden, out: vocab, param, tiedTo: embedding })
  else addLinear(layers, path, vocab, hidden, { bias: false })
}
