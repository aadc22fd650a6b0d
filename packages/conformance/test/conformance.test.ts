/** The kit on the fake backend: eager, with a command queue and a device that can be lost, and with numbers of 16 bits. */
import { describe, it } from "vitest"
import { type FakeBackend, fakeBackend, testBackend } from "../src/index.ts"
import { nearest, withBf16 } from "./bf16-on-fake.ts"

const live = (backend: FakeBackend): number => backend.live()

testBackend(fakeBackend, { name: "fake", live, describe, it })
testBackend((options) => fakeBackend({ ...options, deferred: true, losable: true }), {
  name: "fake, deferred",
  live,
  lose: (backend) => backend.lose(),
  describe,
  it,
})
testBackend(({ maxBufferBytes = 2 ** 14 }) => withBf16(fakeBackend({ maxBufferBytes: 2 * maxBufferBytes }), nearest), {
  name: "fake, with bf16",
  live,
  describe,
  it,
})
