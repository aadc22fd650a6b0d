/**
 * All checks of a fine-tuning method, in one call. The 24 points that PEFT's own suite makes (tests/testing_common.py) and where they are:
 *
 *  1 save and load API, names of parameters   "saved and loaded it is equal …"; names do not hold the adapter's: "on disk every tensor …"
 *  2 only the adapter's parameters learn      "its trainable parameters get gradients, all of them, and nothing else does"
 *  3 save, load, equal; no missing keys       "saved and loaded it is equal, and saved again the same bytes"
 *  4 .bin files, low_cpu_mem_usage            there are safetensors only, read tensor by tensor
 *  5 several adapters, hostile names          "adapters whose names contain one another …", in memory and in folders
 *  6 the config read is the config written    "the config on disk …", "its config survives JSON"
 *  7 a second adapter loads without missing   "adapters whose names contain one another keep to their folders" (strict)
 *  8 merged = unmerged                        "merged it computes the same on many inputs, and unmerged exactly what it did"; tied: "merged at a tied …"
 *  9 subsets merge; merging twice             "several adapters: all of them and every subset …"; twice in 8; onto halves: "on weights in bf16 …"
 * 10 NaN or Inf refuses to merge              "NaN or Inf in a parameter refuses to merge, and nothing changes"
 * 11 a batch of several adapters              does not exist here: a view has one set of enabled adapters
 * 12 generation                               a model's matter: a method sees x alone; the toy model has no cache
 * 13 a training step: gradients, not zero     as 2; right ones: "gradients agree with finite differences"
 * 14 layers_to_transform                      "on … alone: it sits there only …"; choosing layers is core's
 * 15 gradient checkpointing                   "a block that is computed again draws the same dropout and gives the same gradients"
 * 16 deleting adapters                        "detach takes one of two off …"; unknown: "a name that is unknown or taken …"
 * 17 unload                                   "disable gives exactly the base, enable exactly the adapter, detach exactly the base and its memory"
 * 18 weighted combinations                    a matter of each method, beyond the contract
 * 19 disable                                  as 17
 * 20 a refused adapter leaves nothing         "a name that is unknown or taken and a layer it cannot adapt are refused …"
 * 21 input embeddings; moving devices         no such input; "what is saved on … computes the same here", "twenty steps have the losses of …"
 * 22 conversion to LoRA                       a matter of each method, beyond the contract
 * 23 the base's own parameters stay           "disable gives exactly the base …"; the weights: "on weights in …"
 * 24 files of old versions, names of tensors  `savedAs`; "saved again the same bytes"; old files are fixtures of each package
 */
import type { AdapterMethod } from "@peftjs/core"
import { forEachBackend } from "../runner.ts"
import { checkpointChecks } from "./checkpoint.ts"
import { formatChecks } from "./formats.ts"
import { gradientChecks } from "./gradients.ts"
import { lifecycleChecks } from "./lifecycle.ts"
import { mergeChecks } from "./merging.ts"
import { siteChecks } from "./sites.ts"
import { stackingChecks } from "./stacking.ts"
import { type Subject, subjectOf, type TestAdapterOptions } from "./subject.ts"
import { trainingChecks } from "./training.ts"

/** Declares the checks of a method with the runner given, on each backend, and that the backends agree. */
export function testAdapter(method: AdapterMethod, options: TestAdapterOptions): void {
  const { name = method.name } = options
  const before: Record<string, Subject> = {}
  forEachBackend(options.backends, options, `adapter ${name} on `, (where, makeBackend) => {
    const subject = subjectOf(method, options, makeBackend)
    gradientChecks(subject)
    lifecycleChecks(subject)
    stackingChecks(subject)
    siteChecks(subject)
    formatChecks(subject)
    mergeChecks(subject)
    checkpointChecks(subject)
    trainingChecks(subject, { ...before })
    before[where] = subject
  })
}
