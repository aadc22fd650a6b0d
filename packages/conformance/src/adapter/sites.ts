/** Each kind of layer that a method claims, alone: attached there and nowhere else, it learns, merges, and survives its files. */
import { detach, merge, saveAdapter, unmerge } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import { toyModel, toyPaths } from "../toy-model.ts"
import { perturb, toyLogits } from "../toy-training.ts"
import { memoryFolder } from "./folder.ts"
import { allLearn } from "./gradients.ts"
import { mergedTolerance, mergeTargets } from "./merging.ts"
import type { Subject } from "./subject.ts"

const kinds: readonly { readonly what: string; readonly path: string; readonly fanInFanOut?: true }[] = [
  { what: "an embedding", path: toyPaths.embedding },
  { what: "a linear layer with a bias", path: toyPaths.up },
  { what: "a linear layer without a bias", path: toyPaths.down },
  { what: "a linear layer that files hold as [in, out]", path: toyPaths.down, fanInFanOut: true },
  { what: "the head", path: toyPaths.head },
]

export function siteChecks(subject: Subject): void {
  const { method, options, targets, it, base, adapted, load } = subject
  const { identity = true } = options
  for (const { what, path, fanInFanOut = false } of kinds) {
    if (!targets.includes(path)) continue
    it(`on ${what} alone: it sits there only, learns${method.mergeable ? ", merges" : ""} and is saved`, async () => {
      const model = await base((backend) => toyModel(backend, 0, { fanInFanOut }))
      const plain = await toyLogits(model)
      const view = await adapted(model, "default", [path])
      const sites = [...(view.view.adapters[0]?.sites.keys() ?? [])]
      check(sites.join() === path, `it sits on ${sites.join(", ")}`)
      if (identity) close(await toyLogits(view), plain, 1e-5, "logits, just initialised")
      perturb(view, 0.2)
      const logits = await toyLogits(view)
      check(
        logits.some((x, i) => Math.abs(x - (plain[i] as number)) > 1e-4),
        "the logits are those of the base",
      )
      await allLearn(view)
      if (method.mergeable && (await mergeTargets(subject)).includes(path)) {
        const { model: merged } = await merge(view)
        close(await toyLogits(merged), logits, mergedTolerance, "merged: logits")
        unmerge(merged)
      }
      if (method.format) {
        const folder = memoryFolder()
        await saveAdapter(view, folder)
        const loaded = await load(model, folder)
        same(await toyLogits(loaded.model), logits, "loaded: logits")
      }
      same(await toyLogits(detach(view)), plain, "detached: logits")
    })
  }
}
