/** Cases of the optional sum of products: dense and packed terms, with a factor, with an addend and without. */
import type { Backend, DeviceBuffer, DType, PackedOperand, Product, TypedArray } from "@peftjs/core"
import { type HalfType, halfTypes, halves } from "./half.ts"
import { numbers } from "./host.ts"
import { hostPacked, type PackedShape, packedInputs } from "./kernel-cases-packed.ts"
import type { KernelCase } from "./kernel-check.ts"

interface Term {
  readonly k: number
  readonly alpha: number
  readonly transA: boolean
  readonly transB: boolean
  /** How B is stored; f32 unless told otherwise. */
  readonly stored?: HalfType | "packed"
}

const term = (k: number, transposed: "" | "A" | "B" | "AB", alpha = 1): Term => ({
  ...{ k, alpha },
  ...{ transA: transposed.includes("A"), transB: transposed.includes("B") },
})
const wide = term(65, "B")

type Sum = readonly [m: number, n: number, addend: boolean, terms: readonly Term[]]
const sums: readonly Sum[] = [
  [1, 1, false, [term(1, "")]],
  [5, 7, false, [term(3, "A"), term(4, "B", -2)]],
  [5, 7, true, [term(3, "AB")]],
  [2, 3, true, [term(0, "")]],
  [0, 3, true, [term(2, "")]],
  [33, 31, true, [wide, term(8, "", 0.5)]],
  [16, 24, false, [wide, term(2, "B", 3), term(33, "A")]],
  [40, 48, true, [term(64, "B", 0.25), term(8, "B"), term(40, "")]],
]

/** The values of op(B), [k, n], and what is uploaded for it. */
function secondOf(
  { k, transB, stored }: Term,
  n: number,
): {
  values: ArrayLike<number>
  inputs: KernelCase["inputs"]
  operand(buffers: readonly DeviceBuffer[]): Product["b"]
} {
  if (stored === "packed") {
    const shape: PackedShape = {
      bits: 4,
      rows: transB ? n : k,
      columns: transB ? k : n,
      blockSize: 16,
      offset: 5,
      skip: 0,
    }
    const packed = hostPacked(shape)
    const { inputs, operand } = packedInputs(packed)
    return { values: packed.values, inputs, operand: (buffers): PackedOperand => operand(buffers) }
  }
  const only = (buffers: readonly DeviceBuffer[]): DeviceBuffer => buffers[0] as DeviceBuffer
  if (stored === undefined) {
    const data = numbers(`sum b ${k}`, k * n)
    return { values: data, inputs: [{ data }], operand: only }
  }
  const { data, values } = halves(k * n, stored)
  return { values, inputs: [{ data, dtype: stored }], operand: only }
}

function sumCase([m, n, addend, terms]: Sum): KernelCase {
  const start = numbers("addend", m * n)
  const parts = terms.map((t) => ({ ...t, a: numbers(`sum a ${t.k}`, m * t.k), second: secondOf(t, n) }))
  const expected = Float64Array.from({ length: m * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    let total = addend ? (start[at] as number) : 0
    for (const { k, alpha, transA, transB, a, second } of parts)
      for (let p = 0; p < k; p++)
        total +=
          alpha *
          (a[transA ? p * m + i : i * k + p] as number) *
          (second.values[transB ? j * k + p : p * n + j] as number)
    return total
  })
  const inputs: { data: TypedArray; dtype?: DType }[] = addend ? [{ data: start }] : []
  for (const { a, second } of parts) inputs.push({ data: a }, ...second.inputs)
  const names = terms.map(({ k, alpha, stored = "f32", transA, transB }) => {
    return `${alpha} · [${m}, ${k}]${transA ? "ᵀ" : ""} · ${stored} [${k}, ${n}]${transB ? "ᵀ" : ""}`
  })
  return {
    label: `sumOfProducts ${names.join(" + ")}${addend ? " + addend" : ""}`,
    inputs,
    run(backend: Backend, buffers) {
      const rest = [...buffers]
      const first = addend ? rest.shift() : undefined
      const products = parts.map(({ k, alpha, transA, transB, second }): Product => {
        const [a] = rest.splice(0, 1) as [DeviceBuffer]
        return { alpha, a, b: second.operand(rest.splice(0, second.inputs.length)), k, transA, transB }
      })
      return (backend.kernels as Required<Backend["kernels"]>).sumOfProducts(products, first, { m, n })
    },
    expected,
    tolerance: "matmul",
  }
}

const withStored = (stored: Term["stored"], k: number): readonly Sum[] =>
  stored === undefined
    ? []
    : [
        [9, 14, true, [{ ...term(k, "B", 0.5), stored }, term(2, "B", -1)]],
        [9, 14, false, [term(2, ""), { ...term(k, "", 2), stored }]],
      ]

export function sumCases(dtypes: readonly DType[]): readonly KernelCase[] {
  const halfSums = halfTypes(dtypes).flatMap((t) => withStored(t, 11))
  const packedSums = dtypes.includes("u8") ? withStored("packed", 21) : []
  return [...sums, ...halfSums, ...packedSums].map(sumCase)
}
