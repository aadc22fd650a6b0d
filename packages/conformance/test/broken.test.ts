/** The kit tests itself: backends broken on purpose, each refused by the check that is meant for it. */
import { describe, expect, it } from "vitest"
import { brokenBackends } from "./broken-backends.ts"
import { caught } from "./broken-thing.ts"

describe("broken backends", () => {
  for (const [what, thing] of Object.entries(brokenBackends)) {
    it(`${what}: "${thing.check}"`, async () => expect((await caught(thing)).message).toMatch(thing.message))
  }
})
