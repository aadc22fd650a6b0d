/** `npx tsx packages/backend-cuda/test/record-trace.ts`: records recorded-calls.ts with a real TensorFlow on its CPU into fixtures/trace.json. */
import { writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { createBackend } from "../src/backend.ts"
import { openRuntime } from "../src/node-open.ts"
import { recordedCalls } from "./recorded-calls.ts"
import { recording } from "./recorded-runtime.ts"

const { runtime, trace } = recording((await openRuntime({ device: "cpu" })).runtime)
await recordedCalls(createBackend(runtime))
const { version, calls } = trace()
const target = fileURLToPath(new URL("fixtures/trace.json", import.meta.url))
const lines = calls.map((call) => JSON.stringify(call)).join(",\n")
writeFileSync(target, `{"version": ${JSON.stringify(version)}, "calls": [\n${lines}\n]}\n`)
console.log(`${calls.length} calls: ${target}`)
