/**
 * Merging a method into the weights: the same outputs on many inputs, and everything as before when it is undone or refused.
 * A method that cannot be merged must say so.
 */
import {
  disable,
  engineOf,
  isPeftError,
  type Model,
  merge,
  scope,
  setValues,
  trainables,
  unmerge,
  type Weight,
  weightAt,
} from "@peftjs/core"
import { check, close, same, throwsCode } from "../assert.ts"
import { toyModel, toyPaths, toySites } from "../toy-model.ts"
import { perturb, toyLogits, toyLosses } from "../toy-training.ts"
import type { Subject } from "./subject.ts"

/**
 * How far the logits of a merged model may be from those of the unmerged one. The merged weight is rounded to f32 once and its products
 * are summed in another order: about (columns + rank) · 2⁻²⁴ · |W||x| ≈ 4e-6 for a layer of the toy model, ten times that after three
 * layers and a norm. PEFT's own tests allow 1e-4. A term that is forgotten or not affine is off by more than 1e-2.
 */
export const mergedTolerance = 1e-4

export function mergeChecks(subject: Subject): void {
  const { method, it, base, adapted } = subject
  if (!method.mergeable) {
    it("it says that it cannot be merged: merging is refused, and nothing changes", async () => {
      const model = await base()
      const view = await adapted(model)
      perturb(view)
      await refused("E_NOT_MERGEABLE", view, model)
    })
    return
  }

  it("merged it computes the same on many inputs, and unmerged exactly what it did", async () => {
    const model = await base()
    const engine = engineOf(model.backend)
    const view = await adapted(model, "default", await mergeTargets(subject))
    perturb(view)
    const [plain, before, live] = [await toyLogits(model), await toyLogits(view), engine.liveBuffers]
    const { model: merged, sites, maxError } = await merge(view)
    const logits = await toyLogits(merged)
    close(logits, before, mergedTolerance, "logits")
    check(maxError < mergedTolerance * 10, `a merged layer is off by ${maxError}`)
    check(sites === view.view.adapters[0]?.sites.size, `${sites} layers were merged`)
    check(merged.view.adapters.length === 0, "an adapter is still on the merged model")
    check(differ(logits, plain), "the merged model computes what the base does")
    const twice = await merge(merged)
    same(await toyLogits(twice.model), logits, "merged twice")
    unmerge(twice.model)
    const again = await merge(view)
    same(await toyLogits(again.model), logits, "merged again")
    unmerge(again.model)
    same(await toyLogits(unmerge(merged)), before, "unmerged")
    same(await toyLogits(model), plain, "the base afterwards")
    check(engine.liveBuffers === live, `${engine.liveBuffers - live} buffers were left behind`)
    await throwsCode("E_NOT_MERGED", () => unmerge(merged), "unmerge, twice")
  })

  it("several adapters: all of them and every subset merge to what they compute", async () => {
    const at = await mergeTargets(subject)
    const view = await adapted(await adapted(await base(), "a", at), "b", at)
    perturb(view)
    for (const off of [[], ["a"], ["b"]]) {
      for (const adapter of view.view.adapters) adapter.enabled = true
      for (const name of off) disable(view, name)
      const { model: merged } = await merge(view)
      close(await toyLogits(merged), await toyLogits(view), mergedTolerance, `without ${off[0] ?? "none"}: logits`)
      unmerge(merged)
    }
  })

  for (const [path, other] of tiedPairs(subject))
    it(`merged at a tied ${path}, ${other} keeps its weight and the config says that they are apart`, async () => {
      const tied = await base((backend) => toyModel(backend, 0, { tied: true }))
      const view = await adapted(tied, "default", [path])
      perturb(view)
      const before = await toyLogits(view)
      const { model: merged } = await merge(view)
      close(await toyLogits(merged), before, mergedTolerance, "logits")
      same(await rowsOf(merged, other), await rowsOf(tied, other), other)
      check(differ(await rowsOf(merged, path), await rowsOf(tied, path)), `${path} was not merged`)
      check(merged.config.tie_word_embeddings === false, "the config still says tie_word_embeddings")
      check(tied.config.tie_word_embeddings === true, "the base's config was changed")
      unmerge(merged)
    })

  it("NaN or Inf in a parameter refuses to merge, and nothing changes", async () => {
    const model = await base()
    const view = await adapted(model, "default", await mergeTargets(subject))
    perturb(view)
    for (const [i, { tensor }] of trainables(view).entries()) {
      const sound = (await tensor.data()) as Float32Array
      for (const bad of i === 0 ? [Number.NaN, Number.POSITIVE_INFINITY] : [Number.NaN]) {
        const broken = sound.slice()
        broken[broken.length >> 1] = bad
        setValues(tensor, broken)
        await refused("E_MERGE_NOT_FINITE", view, model)
      }
      setValues(tensor, sound)
    }
    unmerge((await merge(view)).model)
  })
}

const places = new WeakMap<Subject, Promise<readonly string[]>>()

/** Where it can be merged: all of its layers, or those with a bias where it adds one of its own and core refuses the others. */
export function mergeTargets(subject: Subject): Promise<readonly string[]> {
  const known = places.get(subject) ?? findTargets(subject)
  places.set(subject, known)
  return known
}

async function findTargets({ targets, base, adapted }: Subject): Promise<readonly string[]> {
  const view = await adapted(await base())
  perturb(view)
  try {
    unmerge((await merge(view)).model)
    return targets
  } catch (error) {
    if (!isPeftError(error) || error.code !== "E_MERGE_BIAS") throw error
    const biased = targets.filter((path) => toySites[path]?.bias)
    check(biased.length > 0, "merging needs biases, and no layer that it adapts has one")
    return biased
  }
}

/** Refused with that code, the base and the memory as before. */
async function refused(code: string, view: Model, model: Model): Promise<void> {
  // What the method makes once and keeps is not what a refusal left.
  await toyLosses(view)
  const [plain, { liveBuffers }] = [await toyLosses(model), engineOf(model.backend)]
  await throwsCode(code, () => merge(view), "merge")
  same(await toyLosses(model), plain, "the base afterwards")
  const left = engineOf(model.backend).liveBuffers - liveBuffers
  check(left === 0, `${left} buffers were left behind`)
}

function tiedPairs({ targets }: Subject): [string, string][] {
  const { embedding, head } = toyPaths
  const pairs: [string, string][] = [
    [embedding, head],
    [head, embedding],
  ]
  return pairs.filter(([path]) => targets.includes(path))
}

async function rowsOf({ definition, view, sites, backend }: Model, path: string): Promise<ArrayLike<number>> {
  const site = sites.get(path)
  check(site, `there is no ${path}`)
  const weight: Weight = weightAt(definition, view, site)
  return scope(engineOf(backend), () => weight.rows({ start: 0, end: weight.shape[0] }).mul(1).data())
}

function differ(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  return Array.from(a).some((x, i) => Math.abs(x - (b[i] as number)) > 1e-3)
}
