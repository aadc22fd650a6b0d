/** Is it right? The published kit says so, on the CPU and, where there is one, on another backend. */
import { describe, it } from "node:test"
import { cpu } from "@peftjs/backend-cpu/node"
import { testAdapter } from "@peftjs/conformance"
import { ia3 } from "../ia3.js"

const runner = { describe, it, backends: { cpu: () => cpu() }, savedAs: ["ia3_l"] }
testAdapter(ia3({ feedforwardModules: ["down_proj"] }), runner)
testAdapter(ia3({ feedforwardModules: ".*\\.down_proj", init: false }), { ...runner, name: "random", identity: false })
