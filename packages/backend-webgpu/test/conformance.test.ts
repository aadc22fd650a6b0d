/** The backend kit on the device there is; without one a single skipped check says why. */
import { testBackend } from "@peftjs/conformance"
import { required } from "@peftjs/tests/backends"
import { describe, it } from "vitest"
import { backends, makeWebgpu } from "./device.ts"

const { webgpu } = backends
testBackend(typeof webgpu === "function" ? makeWebgpu : webgpu, {
  name: "webgpu",
  describe,
  it,
  required,
  live: (backend) => backend.live(),
  lose: (backend) => backend.destroy(),
})
