/** All checks of a backend, in one call. */
import type { Backend } from "@peftjs/core"
import { type Absent, forEachBackend, type RequiredBackends, type Runner } from "../runner.ts"
import { errorChecks } from "./errors.ts"
import { fusedChecks } from "./fused.ts"
import { kernelChecks } from "./kernels.ts"
import { largeChecks } from "./large.ts"
import { limitChecks } from "./limits.ts"
import { lossChecks } from "./loss.ts"
import { manifestChecks } from "./manifest.ts"
import { allOpCases } from "./op-cases.ts"
import { checkOp } from "./op-check.ts"
import { packedWeightChecks } from "./packed-weights.ts"
import { scalarFunctionChecks } from "./scalar-functions.ts"

export interface TestBackendOptions<B extends Backend> extends Runner, RequiredBackends {
  /** What to call it in the summary. */
  readonly name: string
  /** How many buffers the backend itself holds, where it can tell: they are 0 after all checks on it. */
  live?(backend: B): number
  /** Takes the device away, where it can be lost (it declares `lost` then). */
  lose?(backend: B): void | Promise<void>
}

/**
 * Declares the checks of a backend with the runner given. `makeBackend` is called several times, makes a new backend each time, and must
 * honour `maxBufferBytes`, so that splitting can be tested with small models. A backend that is absent is one skipped check, or a failing
 * one where its name is among the required.
 */
export function testBackend<B extends Backend>(
  makeBackend: ((options: { maxBufferBytes?: number }) => B | Promise<B>) | Absent,
  options: TestBackendOptions<B>,
): void {
  const { name, required = [] } = options
  const entry = typeof makeBackend === "function" ? (given = {}): B | Promise<B> => makeBackend(given) : makeBackend
  forEachBackend({ [name]: entry }, { ...options, required: required.filter((r) => r === name) }, "backend ", () => {
    if (typeof makeBackend === "function") declare(makeBackend, options)
  })
}

function declare<B extends Backend>(
  makeBackend: (options: { maxBufferBytes?: number }) => B | Promise<B>,
  options: TestBackendOptions<B>,
): void {
  const { it } = options
  const lazily = (): (() => Promise<B>) => {
    let made: Promise<B> | undefined
    return () => (made ??= Promise.resolve(makeBackend({})))
  }
  const [backendOf, otherOf] = [lazily(), lazily()]
  manifestChecks(backendOf, options)
  scalarFunctionChecks(backendOf, options)
  kernelChecks(backendOf, options)
  for (const test of allOpCases) it(`op ${test.name}`, async () => checkOp(await backendOf(), test))
  fusedChecks(backendOf, options)
  packedWeightChecks(backendOf, options)
  largeChecks(backendOf, options)
  it("the backend itself holds nothing after all that", async () => {
    const live = options.live?.(await backendOf()) ?? 0
    if (live !== 0) throw new Error(`${live} buffers are alive that everybody has freed`)
  })
  errorChecks(backendOf, otherOf, options)
  limitChecks(backendOf, async (wanted) => makeBackend(wanted), options)
  lossChecks(async () => makeBackend({}), options.lose, options)
}
