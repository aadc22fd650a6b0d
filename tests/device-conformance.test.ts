/** Which device a backend's checks ran on, for the tables of what runs where: told to the reporter, not written down anywhere. */
import { describe, expect, it } from "vitest"
import { backends, devices } from "./backends.ts"

declare module "vitest" {
  interface TaskMeta {
    /** Where the backend of the group computes. */
    device?: string
  }
}

it("devices are those of backends that are here", () => {
  for (const name of Object.keys(devices)) expect(backends[name]).toBeTypeOf("function")
})

for (const [backend, device] of Object.entries(devices))
  describe(`device of ${backend}`, () => {
    it("has a name", async ({ task }) => {
      task.meta.device = await device()
      expect(task.meta.device).toMatch(/\w/)
    })
  })
