/** Every required kernel against plain arithmetic on the host, over shapes with 0, 1, odd sizes and sizes that no tile divides. */
import type { Backend, DType } from "@peftjs/core"
import { randomWords } from "@peftjs/core"
import type { Runner } from "../runner.ts"
import { mapCases, reduceCases } from "./kernel-cases-map.ts"
import { matmulCases } from "./kernel-cases-matmul.ts"
import { concatCases, permuteCases, sliceCases } from "./kernel-cases-move.ts"
import { gatherCases, scatterAddCases } from "./kernel-cases-rows.ts"
import { checkKernels, type KernelCase } from "./kernel-check.ts"

const keys = [
  [0, 0],
  [1, 2],
  [0xffffffff, 0x80000000],
] as const

const randomCases: readonly KernelCase[] = keys.flatMap((key) =>
  [0, 1, 2, 3, 64, 257].map((n) => ({
    label: `randomBits([${key}], ${n})`,
    inputs: [],
    run: ({ kernels }: Backend) => kernels.randomBits(key, n),
    expected: randomWords(key, n),
    dtype: "u32" as const,
    tolerance: "random" as const,
  })),
)

/** The cases of each required kernel, over the element types a backend declares. */
export const requiredCases: Readonly<Record<string, (dtypes: readonly DType[]) => readonly KernelCase[]>> = {
  map: mapCases,
  reduce: () => reduceCases,
  matmul: matmulCases,
  gather: gatherCases,
  scatterAdd: () => scatterAddCases,
  permute: permuteCases,
  slice: sliceCases,
  concat: concatCases,
  randomBits: () => randomCases,
}

export function kernelChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  for (const [name, cases] of Object.entries(requiredCases)) {
    it(`kernel ${name}`, async () => {
      const backend = await backendOf()
      await checkKernels(backend, cases(backend.supports.dtypes))
    })
  }
}
