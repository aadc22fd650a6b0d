/** Every required kernel against plain arithmetic on the host, over shapes with 0, 1, odd sizes and sizes that no tile divides. */
import type { Backend } from "@peftjs/core"
import { randomWords } from "@peftjs/core"
import { same } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { mapCases, reduceCases } from "./kernel-cases-map.ts"
import { matmulCases } from "./kernel-cases-matmul.ts"
import { concatCases, permuteCases, sliceCases } from "./kernel-cases-move.ts"
import { gatherCases, scatterAddCases } from "./kernel-cases-rows.ts"
import { checkKernel, type KernelCase } from "./kernel-check.ts"

export function kernelChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  const group = (name: string, cases: (backend: Backend) => readonly KernelCase[]): void => {
    it(`kernel ${name}`, async () => {
      const backend = await backendOf()
      for (const test of cases(backend)) await checkKernel(backend, test)
    })
  }
  group("map", () => mapCases)
  group("reduce", () => reduceCases)
  group("matmul", ({ supports }) => matmulCases(supports.dtypes))
  group("gather", ({ supports }) => gatherCases(supports.dtypes))
  group("scatterAdd", () => scatterAddCases)
  group("permute", () => permuteCases)
  group("slice", () => sliceCases)
  group("concat", () => concatCases)
  it("kernel randomBits", async () => {
    const backend = await backendOf()
    for (const key of [
      [0, 0],
      [1, 2],
      [0xffffffff, 0x80000000],
    ] as const) {
      for (const n of [0, 1, 2, 3, 64, 257]) {
        const buffer = backend.kernels.randomBits(key, n)
        same(await backend.read(buffer), randomWords(key, n), `randomBits([${key}], ${n})`)
        backend.free(buffer)
      }
    }
  })
}
