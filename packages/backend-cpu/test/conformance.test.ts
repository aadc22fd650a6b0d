/** The backend kit on each level of kernels; "cpu" in Node takes a BLAS where the machine has one, and is WebAssembly in a page. */
import { testBackend } from "@peftjs/conformance"
import { describe, it } from "vitest"
import { cpu } from "../src/index.ts"
import { backends } from "./device.ts"

for (const [name, makeBackend] of Object.entries(backends)) testBackend(makeBackend, { name, describe, it })
if (typeof window === "undefined")
  testBackend((options) => cpu({ kernels: "wasm", ...options }), { name: "cpu, wasm kernels", describe, it })
