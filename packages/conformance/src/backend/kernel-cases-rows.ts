/** Cases of `gather` and `scatterAdd`, with ids that repeat. */
import type { DeviceBuffer, DType } from "@peftjs/core"
import { type HalfType, halfTypes, halves } from "./half.ts"
import { at, host, numbers, sum, tabulate } from "./host.ts"
import type { KernelCase } from "./kernel-check.ts"

type Table = readonly [rows: number, width: number, n: number]
const tables: readonly Table[] = [
  [1, 1, 1],
  [5, 3, 0],
  [5, 0, 4],
  [4, 7, 9],
  [37, 9, 64],
  [3, 33, 2],
]
const idsOf = ([rows, , n]: Table): Int32Array => Int32Array.from({ length: n }, (_, i) => (i * i + 3 * i) % rows)

function gatherCase(dims: Table, dtype: "f32" | HalfType): KernelCase {
  const [rows, width, n] = dims
  const ids = idsOf(dims)
  const float = numbers("gather", rows * width)
  const { data, values } = dtype === "f32" ? { data: float, values: float } : halves(rows * width, dtype)
  const table = host([rows, width], values)
  return {
    label: `gather ${n} of [${rows}, ${width}] ${dtype}`,
    inputs: [
      { data, dtype },
      { data: ids, dtype: "i32" },
    ],
    run: ({ kernels }, [t, i]) => kernels.gather(t as DeviceBuffer, i as DeviceBuffer, { rows, width, n }),
    expected: tabulate([n, width], (i, j) => at(table, ids[i] as number, j)).data,
  }
}

function scatterCase(dims: Table): KernelCase {
  const [rows, width, n] = dims
  const ids = idsOf(dims)
  const data = numbers("scatter", n * width)
  const x = host([n, width], data)
  return {
    label: `scatterAdd ${n} into [${rows}, ${width}]`,
    inputs: [{ data }, { data: ids, dtype: "i32" }],
    run: ({ kernels }, [t, i]) => kernels.scatterAdd(t as DeviceBuffer, i as DeviceBuffer, { rows, width, n }),
    expected: tabulate([rows, width], (r, j) => sum(n, (i) => (ids[i] === r ? at(x, i, j) : 0))).data,
    tolerance: "scatterAdd",
  }
}

export function gatherCases(dtypes: readonly DType[]): KernelCase[] {
  return [...tables.map((dims) => gatherCase(dims, "f32")), ...halfTypes(dtypes).map((t) => gatherCase([9, 5, 7], t))]
}

export const scatterAddCases: readonly KernelCase[] = tables.map(scatterCase)
