/** The backend kit on TensorFlow's CPU, or on a GPU; without TensorFlow, and in pages, a single skipped check says why. */
import { testBackend } from "@peftjs/conformance"
import { required } from "@peftjs/tests/backends"
import { describe, it } from "vitest"
import type { CudaBackend } from "../src/backend.ts"
import { backends, makeCuda } from "./device.ts"

testBackend(typeof backends.cuda === "function" ? makeCuda : (backends.cuda ?? { absent: "Node alone has it" }), {
  name: "cuda",
  describe,
  it,
  required,
  live: (backend: CudaBackend) => backend.stats().buffers,
})
