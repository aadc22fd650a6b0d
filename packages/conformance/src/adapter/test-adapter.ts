/** All checks of a fine-tuning method, in one call. */
import type { AdapterMethod } from "@peftjs/core"
import { checkpointChecks } from "./checkpoint.ts"
import { gradientChecks } from "./gradients.ts"
import { lifecycleChecks } from "./lifecycle.ts"
import { type Subject, subjectOf, type TestAdapterOptions } from "./subject.ts"
import { trainingChecks } from "./training.ts"

/** Declares the checks of a method with the runner given, on each backend, and that the backends agree. */
export function testAdapter(method: AdapterMethod, options: TestAdapterOptions): void {
  const { describe, name = method.name } = options
  const before: Record<string, Subject> = {}
  for (const [where, makeBackend] of Object.entries(options.backends)) {
    const subject = subjectOf(method, options, makeBackend)
    const others = { ...before }
    describe(`adapter ${name} on ${where}`, () => {
      gradientChecks(subject)
      lifecycleChecks(subject)
      checkpointChecks(subject)
      trainingChecks(subject, others)
    })
    before[where] = subject
  }
}
