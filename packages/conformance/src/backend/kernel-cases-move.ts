/** Cases of `permute`, `slice` and `concat`: the element type stays, whatever it is. */
import type { DeviceBuffer, DType, Shape, TypedArray } from "@peftjs/core"
import { hostArray, sizeOf } from "@peftjs/core"
import { at, host, numbers, tabulate } from "./host.ts"
import type { KernelCase } from "./kernel-check.ts"

/** Patterns of 16 bits are those of numbers. */
const counted = (n: number, dtype: DType, plus = 0): TypedArray => {
  if (dtype === "f32") return numbers("moved", n).map((x) => x + plus)
  const data = hostArray(dtype, n)
  for (let i = 0; i < n; i++) data[i] = ((i * 37) % 31_000) + plus - (dtype === "i32" ? 3 : 0)
  return data
}

const turns: readonly (readonly [shape: Shape, axes: readonly number[]])[] = [
  [[], []],
  [[5], [0]],
  [
    [3, 5],
    [1, 0],
  ],
  [
    [33, 65],
    [1, 0],
  ],
  [
    [2, 3, 4],
    [2, 0, 1],
  ],
  [
    [2, 3, 4],
    [0, 2, 1],
  ],
  [
    [2, 5, 3, 7],
    [0, 2, 1, 3],
  ],
  [
    [2, 5, 1, 7],
    [3, 1, 0, 2],
  ],
  [
    [2, 0, 3],
    [2, 1, 0],
  ],
]

function permuteCase(shape: Shape, order: readonly number[], dtype: DType): KernelCase {
  const data = counted(sizeOf(shape), dtype)
  const x = host(shape, data)
  const turned = order.map((axis) => shape[axis] as number)
  return {
    label: `permute [${shape}] to [${order}], ${dtype}`,
    inputs: [{ data, dtype }],
    run: ({ kernels }, [buffer]) => kernels.permute(buffer as DeviceBuffer, shape, order),
    expected: tabulate(turned, (...c) => at(x, ...shape.map((_, axis) => c[order.indexOf(axis)] as number))).data,
    dtype,
  }
}

type Slice = readonly [outer: number, n: number, inner: number, start: number, length: number]
const slices: readonly Slice[] = [
  [1, 1, 1, 0, 1],
  [3, 5, 2, 0, 5],
  [3, 5, 2, 1, 3],
  [3, 5, 2, 4, 1],
  [3, 5, 2, 2, 0],
  [0, 5, 2, 1, 3],
  [1, 65, 33, 7, 31],
  [33, 9, 1, 5, 4],
]

function sliceCase([outer, n, inner, start, length]: Slice, dtype: DType): KernelCase {
  const data = counted(outer * n * inner, dtype)
  const x = host([outer, n, inner], data)
  return {
    label: `slice ${start} + ${length} of [${outer}, ${n}, ${inner}], ${dtype}`,
    inputs: [{ data, dtype }],
    run: ({ kernels }, [buffer]) => kernels.slice(buffer as DeviceBuffer, { outer, n, inner, start, length }),
    expected: tabulate([outer, length, inner], (o, j, i) => at(x, o, start + j, i)).data,
    dtype,
  }
}

const joins: readonly (readonly [outer: number, ns: readonly number[], inner: number])[] = [
  [1, [4], 1],
  [2, [3, 1], 5],
  [3, [0, 2, 0, 4], 3],
  [1, [17, 33], 9],
  [33, [1, 1], 1],
  [0, [2, 3], 2],
]

function concatCase([outer, ns, inner]: (typeof joins)[number], dtype: DType): KernelCase {
  const inputs = ns.map((n, i) => ({ data: counted(outer * n * inner, dtype, 100 * i), dtype }))
  const parts = inputs.map(({ data }, i) => host([outer, ns[i] as number, inner], data))
  const row = (o: number): number[] =>
    parts.flatMap((p) => [...p.data.slice(o * sizeOf(p.shape.slice(1)), (o + 1) * sizeOf(p.shape.slice(1)))])
  return {
    label: `concat of [${outer}, (${ns}), ${inner}], ${dtype}`,
    inputs,
    run: ({ kernels }, buffers) => kernels.concat(buffers, { outer, ns, inner }),
    expected: Array.from({ length: outer }, (_, o) => row(o)).flat(),
    dtype,
  }
}

/** Element types of one, two and four bytes: a kernel that packs them into words must not lose the ends of odd sizes. */
const each =
  <T>(cases: readonly T[], make: (x: T, dtype: DType) => KernelCase) =>
  (dtypes: readonly DType[]): KernelCase[] =>
    dtypes.flatMap((dtype) => cases.map((x) => make(x, dtype)))

type Cases = (dtypes: readonly DType[]) => KernelCase[]
export const permuteCases: Cases = each(turns, ([shape, order], dtype) => permuteCase(shape, order, dtype))
export const sliceCases: Cases = each(slices, sliceCase)
export const concatCases: Cases = each(joins, concatCase)
