/** The adapter kit on examples/third-party-adapter, on every backend and over every weight format of the workspace. */
/// <reference types="vite/client" />
import { testAdapter } from "@peftjs/conformance"
import type { MethodFactory } from "@peftjs/core"
import { describe, it } from "vitest"
import { backends, required } from "./backends.ts"
import { weights } from "./formats.ts"

// Plain JavaScript, which the compiler is not asked to read.
const [ia3] = Object.values(
  import.meta.glob<MethodFactory<{ feedforwardModules?: readonly string[] }>>(
    "../examples/third-party-adapter/ia3.js",
    { eager: true, import: "default" },
  ),
)
if (!ia3) throw new Error("examples/third-party-adapter has no ia3.js")

testAdapter(ia3({ feedforwardModules: ["down_proj"] }), {
  ...{ describe, it, backends, required, weights },
  savedAs: ["ia3_l"],
})
