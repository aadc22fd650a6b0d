/** The CPU backends for the conformance kit: the fastest there is here, and the plain loops that specify it. */
import type { MakeBackend } from "@peftjs/conformance"

const { cpu } = typeof window === "undefined" ? await import("../src/node.ts") : await import("../src/index.ts")

export const backends: Readonly<Record<"cpu" | "cpu-reference", MakeBackend>> = {
  cpu: (options) => cpu(options),
  "cpu-reference": (options) => cpu({ ...options, kernels: "reference" }),
}
