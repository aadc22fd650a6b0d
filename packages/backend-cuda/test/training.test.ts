/** A training holds nothing back: as many tensors live in TensorFlow after step 200 as after step 10, and the process does not grow. */
import { toyModel, toyStep } from "@peftjs/conformance"
import { unfreeze } from "@peftjs/core"
import { describe, expect, it } from "vitest"
import { createBackend } from "../src/backend.ts"
import { absent, runtimes } from "./open.ts"

it.skipIf(absent.length === 0)(`absent: ${absent.join("; ") || "none"}`, ({ skip }) => skip())

const mebibytes = (): number => process.memoryUsage.rss() / 2 ** 20

for (const [way, runtime] of runtimes)
  describe(way, () => {
    it("200 steps: handles and memory stay as they are at step 10", async () => {
      const backend = createBackend(runtime)
      const model = unfreeze(toyModel(backend))
      const seen: { handles: number; ops: number; up: number; down: number }[] = []
      let settled = 0
      for (let step = 1; step <= 200; step++) {
        await toyStep(model, step)
        const { handles, ops, bytesUp: up, bytesDown: down } = backend.stats()
        seen.push({ handles, ops, up, down })
        if (step === 50) settled = mebibytes()
      }
      const at = (step: number): (typeof seen)[number] => seen[step - 1] as (typeof seen)[number]
      const perStep = (from: number, to: number, what: "ops" | "up" | "down"): number =>
        (at(to)[what] - at(from)[what]) / (to - from)
      console.log(
        `${way}: ${at(10).handles} handles; a step takes ${perStep(100, 200, "ops")} ops, ${perStep(100, 200, "up")} bytes up, ${perStep(100, 200, "down")} down`,
      )
      expect(at(200).handles).toBe(at(10).handles)
      for (const what of ["ops", "up", "down"] as const)
        expect(perStep(100, 200, what), what).toBe(perStep(10, 100, what))
      expect(mebibytes() - settled).toBeLessThan(64)
    }, 300_000)
  })
