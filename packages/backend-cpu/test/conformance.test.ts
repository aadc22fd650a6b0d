/** The backend kit on each level of kernels; "auto" in Node takes a BLAS where the machine has one. */
import { testBackend } from "@peftjs/conformance"
import { describe, it } from "vitest"
import { cpu } from "../src/index.ts"
import { cpu as nodeCpu } from "../src/node.ts"

for (const kernels of ["reference", "wasm"] as const) {
  testBackend((options) => cpu({ kernels, ...options }), { name: `cpu, ${kernels} kernels`, describe, it })
}
testBackend(nodeCpu, { name: "cpu in Node, auto", describe, it })
