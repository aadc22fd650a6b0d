/** The kit on the fake backend: eager, with a command queue and without bytes on a device that can be lost, with numbers of 16 bits, and with packed kernels and sums of products. */
import { describe, it } from "vitest"
import { type FakeBackend, fakeBackend, testBackend } from "../src/index.ts"
import { nearest, withBf16 } from "./bf16-on-fake.ts"
import { withPacked } from "./packed-on-fake.ts"
import { withSums } from "./sums-on-fake.ts"

const live = (backend: FakeBackend): number => backend.live()

testBackend(fakeBackend, { name: "fake", live, describe, it })
testBackend((options) => fakeBackend({ ...options, deferred: true, losable: true, bytes: false }), {
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
testBackend((options) => withSums(withPacked(fakeBackend(options))), {
  name: "fake, with packed kernels and sums",
  live,
  describe,
  it,
})
