/** The kit tests itself: methods broken on purpose, each refused by the check that is meant for it. */
import { describe, expect, it } from "vitest"
import { fakeBackend, testAdapter } from "../src/index.ts"
import { brokenMethods, saved, sound } from "./broken-methods.ts"
import { caught } from "./broken-thing.ts"
import { collect } from "./collect.ts"

describe("broken methods", () => {
  for (const [what, thing] of Object.entries(brokenMethods))
    it(`${what}: "${thing.check}"`, async () => expect((await caught(thing)).message).toMatch(thing.message))

  for (const [what, method] of Object.entries({ "without a format": sound, "with a format": saved }))
    it(`the one they are made from passes every check, ${what}`, async () => {
      const checks = collect((runner) => testAdapter(method, { backends: { fake: () => fakeBackend() }, ...runner }))
      for (const run of checks.values()) await run()
      expect(checks.size).toBeGreaterThan(25)
    })

  it("one that says it cannot be merged passes as well, and is not asked to", async () => {
    const rigid = { ...sound, mergeable: false }
    const checks = collect((runner) => testAdapter(rigid, { backends: { fake: () => fakeBackend() }, ...runner }))
    for (const run of checks.values()) await run()
    expect([...checks.keys()].filter((name) => name.startsWith("merged"))).toEqual([])
  })
})
