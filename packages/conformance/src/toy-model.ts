/**
 * A language model of a few hundred parameters with every kind of layer that methods adapt: an embedding, two linear layers (one with a
 * bias) in a block, a norm, a head. Plain layers, as model packages write them; knows no method.
 */
import type { Backend, Model, ModelDefinition, ModelInput, Site, Tensor, Weight } from "@peftjs/core"
import { bindModel, keyOf, normals, PeftError, rmsNorm, tensor, uploadDense } from "@peftjs/core"

export const toySizes = { vocab: 37, width: 8, hidden: 10 } as const

export const toyPaths = {
  embedding: "model.embed_tokens",
  up: "model.layers.0.up_proj",
  down: "model.layers.0.down_proj",
  norm: "model.norm",
  head: "lm_head",
} as const

/** Makes the model, its values drawn from `seed`. Matrices are split into parts where the backend's buffers are too small for them. */
export function toyModel(backend: Backend, seed = 0): Model {
  const { vocab, width, hidden } = toySizes
  const { embedding, up, down, norm, head } = toyPaths
  const params = new Map<string, Tensor | Weight>()
  const sites = new Map<string, Site>()
  const draw = (path: string, n: number, std: number): Float32Array => normals(keyOf(seed, "toy", path), n, std)
  const site = (kind: Site["kind"], path: string, out: number, columns: number, bias = false): void => {
    const param = `${path}.weight`
    const base = uploadDense(backend, draw(param, out * columns, columns ** -0.5), "f32", [out, columns])
    params.set(param, base)
    if (bias) params.set(`${path}.bias`, tensor(backend, draw(`${path}.bias`, out, 0.3), [out]))
    const sizes = kind === "embedding" ? { in: out, out: columns } : { in: columns, out }
    sites.set(path, { path, kind, ...sizes, param, base, ...(bias ? { bias: `${path}.bias` } : {}) })
  }
  site("embedding", embedding, vocab, width)
  site("linear", up, hidden, width, true)
  site("linear", down, width, hidden)
  params.set(
    `${norm}.weight`,
    tensor(
      backend,
      draw(norm, width, 0.1).map((x) => 1 + x),
      [width],
    ),
  )
  site("linear", head, vocab, width)
  const definition: ModelDefinition = {
    backend,
    config: { model_type: "toy" },
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

/** A fixed batch of two rows of seven tokens, and labels: each token's successor, some of them masked. */
export function toyBatch(): { readonly input: ModelInput; readonly labels: Int32Array } {
  const [batch, tokens] = [2, 7]
  const ids = Int32Array.from({ length: batch * tokens }, (_, i) => (i * i * 5 + 3) % toySizes.vocab)
  const labels = ids.map((id, i) => (i % 5 === 4 ? -100 : id))
  return { input: { ids, batch, tokens }, labels }
}
