/** The kit on the fake backend, eager and with a command queue. */
import { describe, it } from "vitest"
import { fakeBackend, testBackend } from "../src/index.ts"

for (const deferred of [false, true]) {
  testBackend((options) => fakeBackend({ ...options, deferred }), {
    name: deferred ? "fake, deferred" : "fake",
    live: (backend) => backend.live(),
    describe,
    it,
  })
}
