/** The ways into TensorFlow that there are on this machine, for tests that look at each. On TensorFlow's CPU. */
import { isPeftError } from "@peftjs/core"
import { openRuntime } from "../src/node-open.ts"
import type { TfRuntime } from "../src/tf-runtime.ts"

type Way = "capi" | "addon"

async function open(runtime: Way): Promise<TfRuntime | string> {
  try {
    return (await openRuntime({ device: "cpu", runtime })).runtime
  } catch (error) {
    if (isPeftError(error) && ["E_TENSORFLOW", "E_TENSORFLOW_ADDON"].includes(error.code)) return error.message
    throw error
  }
}

const opened: readonly (readonly [Way, TfRuntime | string])[] = [
  ["capi", await open("capi")],
  ["addon", await open("addon")],
]

export const runtimes: readonly (readonly [Way, TfRuntime])[] = opened.flatMap(([way, runtime]) =>
  typeof runtime === "string" ? [] : [[way, runtime] as const],
)
/** Why the others are not there. */
export const absent: readonly string[] = opened.flatMap(([, runtime]) => (typeof runtime === "string" ? [runtime] : []))
