/**
 * A language model of a few hundred parameters with every kind of layer that methods adapt: an embedding, two linear layers (one with a
 * bias) in a block, a norm, a head. Plain layers, as model packages write them; knows no method.
 */
import type {
  Backend,
  Model,
  ModelDefinition,
  ModelInput,
  Site,
  SiteKind,
  Tensor,
  Weight,
  WeightFormat,
} from "@peftjs/core"
import { bindModel, keyOf, normals, PeftError, rmsNorm, tensor, uploadDense } from "@peftjs/core"

export const toySizes = { vocab: 37, width: 8, hidden: 10 } as const

export const toyPaths = {
  embedding: "model.embed_tokens",
  up: "model.layers.0.up_proj",
  down: "model.layers.0.down_proj",
  norm: "model.norm",
  head: "lm_head",
} as const

/** The layers that methods can sit on: [rows, columns] of the weight, and whether there is a bias. */
export const toySites: Readonly<
  Record<string, { readonly kind: SiteKind; readonly shape: readonly [number, number]; readonly bias: boolean }>
> = {
  [toyPaths.embedding]: { kind: "embedding", shape: [toySizes.vocab, toySizes.width], bias: false },
  [toyPaths.up]: { kind: "linear", shape: [toySizes.hidden, toySizes.width], bias: true },
  [toyPaths.down]: { kind: "linear", shape: [toySizes.width, toySizes.hidden], bias: false },
  [toyPaths.head]: { kind: "linear", shape: [toySizes.vocab, toySizes.width], bias: false },
}

export interface ToyOptions {
  /** The head shares the embedding's weight. */
  readonly tied?: boolean
  /** Files would hold the block's second layer as [in, out]. */
  readonly fanInFanOut?: boolean
  /** Matrices by the path of their site, where they are not to be dense f32. */
  readonly weights?: ReadonlyMap<string, Weight>
}

/** Makes the model, its values drawn from `seed`. Matrices are split into parts where the backend's buffers are too small for them. */
export function toyModel(backend: Backend, seed = 0, options: ToyOptions = {}): Model {
  const { tied = false, fanInFanOut = false, weights } = options
  const { vocab, width } = toySizes
  const { embedding, up, down, norm, head } = toyPaths
  const params = new Map<string, Tensor | Weight>()
  const sites = new Map<string, Site>()
  for (const [path, { kind, shape, bias }] of Object.entries(toySites)) {
    const [rows, columns] = shape
    const owner = tied && path === head ? embedding : path
    const param = `${owner}.weight`
    const given = weights?.get(owner) ?? params.get(param)
    const base = (given as Weight | undefined) ?? uploadDense(backend, toyMatrix(path, seed), "f32", shape)
    params.set(param, base)
    if (bias)
      params.set(`${path}.bias`, tensor(backend, normals(keyOf(seed, "toy", `${path}.bias`), rows, 0.3), [rows]))
    const sizes = kind === "embedding" ? { in: rows, out: columns } : { in: columns, out: rows }
    sites.set(path, {
      ...{ path, kind, ...sizes, param, base },
      ...(bias ? { bias: `${path}.bias` } : {}),
      ...(owner === path ? {} : { tiedTo: owner }),
      ...(fanInFanOut && path === down ? { fanInFanOut } : {}),
    })
  }
  const ofNorm = normals(keyOf(seed, "toy", norm), width, 0.1).map((x) => 1 + x)
  params.set(`${norm}.weight`, tensor(backend, ofNorm, [width]))
  const definition: ModelDefinition = {
    backend,
    config: { model_type: "toy", vocab_size: vocab, tie_word_embeddings: tied },
    name: "toy",
    sites,
    params,
    head,
    hidden({ ids, batch, tokens }, run) {
      const x = run.embedding(embedding, tensor(backend, ids, [batch, tokens], "i32"))
      const y = run.block(() => x.add(run.linear(down, run.linear(up, x).silu())))
      return rmsNorm(y, run.tensor(`${norm}.weight`), 1e-5)
    },
    makeCache() {
      throw new PeftError("E_UNSUPPORTED", "[toy] no layer of this model looks back; there is nothing to cache")
    },
  }
  return bindModel(definition)
}

/** The values of a site's matrix, row by row. */
export function toyMatrix(path: string, seed = 0): Float32Array {
  const [rows, columns] = toySites[path]?.shape ?? [0, 0]
  return normals(keyOf(seed, "toy", `${path}.weight`), rows * columns, columns ** -0.5)
}

/** The same model with its matrices stored in a format. Throws what encoding throws. */
export async function toyModelIn(backend: Backend, format: WeightFormat): Promise<Model> {
  const weights = new Map<string, Weight>()
  for (const [path, { shape }] of Object.entries(toySites))
    weights.set(path, await format.encode(backend, shape, blocks(toyMatrix(path), shape[1])))
  return toyModel(backend, 0, { weights })
}

async function* blocks(values: Float32Array, columns: number): AsyncIterable<Float32Array> {
  const size = 4 * columns
  for (let at = 0; at < values.length; at += size) yield values.subarray(at, at + size)
}

/** A fixed batch of two rows of seven tokens, and labels: each token's successor, some of them masked. */
export function toyBatch(): { readonly input: ModelInput; readonly labels: Int32Array } {
  const [batch, tokens] = [2, 7]
  const ids = Int32Array.from({ length: batch * tokens }, (_, i) => (i * i * 5 + 3) % toySizes.vocab)
  const labels = ids.map((id, i) => (i % 5 === 4 ? -100 : id))
  return { input: { ids, batch, tokens }, labels }
}
