/** All checks of a backend, in one call. */
import type { Backend } from "@peftjs/core"
import type { Runner } from "../runner.ts"
import { errorChecks } from "./errors.ts"
import { fusedChecks } from "./fused.ts"
import { kernelChecks } from "./kernels.ts"
import { limitChecks } from "./limits.ts"
import { manifestChecks } from "./manifest.ts"
import { opCases } from "./op-cases.ts"
import { networkCases } from "./op-cases-nn.ts"
import { checkOp } from "./op-check.ts"
import { scalarFunctionChecks } from "./scalar-functions.ts"

export interface TestBackendOptions<B extends Backend> extends Runner {
  /** What to call it in the summary. */
  readonly name: string
  /** How many buffers the backend itself holds, where it can tell: they are 0 after all checks on it. */
  live?(backend: B): number
}

/**
 * Declares the checks of a backend with the runner given. `makeBackend` is called several times and must honour `maxBufferBytes`,
 * so that splitting can be tested with small models.
 */
export function testBackend<B extends Backend>(
  makeBackend: (options: { maxBufferBytes?: number }) => B | Promise<B>,
  options: TestBackendOptions<B>,
): void {
  const { describe, it } = options
  const lazily = (): (() => Promise<B>) => {
    let made: Promise<B> | undefined
    return () => (made ??= Promise.resolve(makeBackend({})))
  }
  const [backendOf, otherOf] = [lazily(), lazily()]
  describe(`backend ${options.name}`, () => {
    manifestChecks(backendOf, options)
    scalarFunctionChecks(backendOf, options)
    kernelChecks(backendOf, options)
    for (const test of [...opCases, ...networkCases])
      it(`op ${test.name}`, async () => checkOp(await backendOf(), test))
    fusedChecks(backendOf, options)
    it("the backend itself holds nothing after all that", async () => {
      const live = options.live?.(await backendOf()) ?? 0
      if (live !== 0) throw new Error(`${live} buffers are alive that everybody has freed`)
    })
    errorChecks(backendOf, otherOf, options)
    limitChecks(async (wanted) => makeBackend(wanted), options)
  })
}
