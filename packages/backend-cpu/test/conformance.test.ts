/** The backend kit on each level of kernels; "cpu" in Node takes a BLAS where the machine has one, and is WebAssembly elsewhere. */
import { testBackend } from "@peftjs/conformance"
import { describe, it } from "vitest"
import { type CpuBackend, cpu } from "../src/index.ts"
import { backends } from "./device.ts"

const { kernels } = ((await backends.cpu()) as CpuBackend).info

for (const [name, makeBackend] of Object.entries(backends)) testBackend(makeBackend, { name, describe, it })
if (kernels === "blas")
  testBackend((options) => cpu({ kernels: "wasm", ...options }), { name: "cpu, wasm kernels", describe, it })
