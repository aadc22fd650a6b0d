/** One runtime for the tests of single kernels in a file; absent where there is no device. */
import type { Runtime } from "../src/runtime.ts"
import { openRuntime } from "./runtime-kit.ts"

export { absent } from "./runtime-kit.ts"

let opened: Promise<Runtime> | undefined

export function openGpu(): Promise<Runtime> {
  opened ??= openRuntime()
  return opened
}
