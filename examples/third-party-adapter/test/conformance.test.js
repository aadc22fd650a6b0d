/** Is it right? The published kit says so: on the CPU and, where there is one, on another backend, also over quantised weights. */
import { describe, it } from "node:test"
import { cpu } from "@peftjs/backend-cpu/node"
import { testAdapter } from "@peftjs/conformance"
import { int8, nf4 } from "@peftjs/qlora"
import { ia3 } from "../ia3.js"

const runner = { describe, it, backends: { cpu: () => cpu() }, savedAs: ["ia3_l"] }
const weights = { nf4: nf4(), int8: int8() }
testAdapter(ia3({ feedforwardModules: ["down_proj"] }), { ...runner, weights })
testAdapter(ia3({ feedforwardModules: ".*\\.down_proj", init: false }), { ...runner, name: "random", identity: false })
