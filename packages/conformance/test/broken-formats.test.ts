/** The kit tests itself: weight formats broken on purpose, each refused by the check that is meant for it. */
import { describe, expect, it } from "vitest"
import { brokenFormats, checksOver, formatCheck, refusedFormat, soundFormat } from "./broken-formats.ts"
import { caught } from "./broken-thing.ts"

describe("broken weight formats", () => {
  for (const [what, thing] of Object.entries(brokenFormats))
    it(what, async () => expect((await caught(thing)).message).toMatch(thing.message))

  it("the one they are made from passes", async () => {
    await checksOver(soundFormat).get(formatCheck)?.()
  })

  it("a format of bytes may be refused by a backend that has none", async () => {
    await checksOver(refusedFormat, false).get(formatCheck)?.()
  })
})
