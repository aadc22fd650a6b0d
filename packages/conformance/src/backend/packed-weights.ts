/**
 * Packed weights as core computes with them, by a backend's own kernels or without: both products, the gradient, rows in order and by ids,
 * of matrices in one part and in several. Knows layouts, no formats.
 */
import type { Backend, PackedWeight, Tensor } from "@peftjs/core"
import { engineOf, free, hold, packedWeight, scope, tensor, valueAndGradients } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import type { Runner } from "../runner.ts"
import { numbers } from "./host.ts"
import { type HostPacked, hostPacked, type PackedShape } from "./kernel-cases-packed.ts"
import { watched } from "./limits.ts"
import { toleranceOf } from "./tolerances.ts"

interface Weight extends PackedShape {
  /** In bytes, where the matrix is to be in several parts. */
  readonly limit?: number
}

const whole = { offset: 0, skip: 0 }
// A code book alone has 2 KiB. What is in several parts begins within a byte, a block and a nested block; the last block is short.
const weights: readonly Weight[] = [
  { ...whole, bits: 4, rows: 9, columns: 7, blockSize: 16 },
  { ...whole, bits: 4, rows: 5, columns: 64, blockSize: 32, minimums: true },
  { ...whole, bits: 4, rows: 21, columns: 33, blockSize: 64, nestedBlock: 4 },
  { ...whole, bits: 8, rows: 7, columns: 9, blockSize: 9 },
  { ...whole, bits: 4, rows: 40, columns: 33, blockSize: 16, nestedBlock: 4, limit: 2048 },
  { ...whole, bits: 4, rows: 60, columns: 9, blockSize: 32, minimums: true, limit: 2048 },
  { ...whole, bits: 4, rows: 50, columns: 21, blockSize: 16, nestedBlock: 4, minimums: true, limit: 2048 },
  { ...whole, bits: 8, rows: 100, columns: 7, blockSize: 11, limit: 2048 },
]
const nameOf = ({ rows, columns, limit }: Weight): string =>
  `packed [${rows}, ${columns}]${limit === undefined ? "" : " in parts"}`

/** What is computed with a weight, by name. */
type Results = Readonly<Record<"product" | "transposed" | "gradient" | "rows" | "ids", readonly number[]>>

export function packedWeightChecks(backendOf: () => Promise<Backend>, { it }: Runner): void {
  it("a packed weight, in one part and in several, computes with its values, if the backend has u8", async () => {
    const backend = await backendOf()
    if (!backend.supports.dtypes.includes("u8")) return
    for (const weight of weights) {
      const packed = hostPacked(weight)
      closeTo(await resultsOn(backend, weight, packed), onHost(weight, packed), nameOf(weight))
    }
  })
}

/** Holds a packed kernel to core's composition without it: for unpack, that of rows and of products without a kernel of their own. */
export async function comparePacked(kernel: "packedMatmul" | "unpack", backend: Backend): Promise<void> {
  const { packedMatmul: _, unpack, ...required } = backend.kernels
  const byRows = { ...required, ...(unpack ? { unpack } : {}) }
  const [own, without] = kernel === "packedMatmul" ? [backend.kernels, byRows] : [byRows, required]
  for (const weight of weights) {
    const packed = hostPacked(weight)
    const composed = await resultsOn({ ...backend, kernels: without }, weight, packed)
    closeTo(await resultsOn({ ...backend, kernels: own }, weight, packed), composed, nameOf(weight))
  }
}

function closeTo(found: Results, expected: Results, name: string): void {
  for (const what of ["rows", "ids"] as const) same(found[what], expected[what], `${name}: ${what}`)
  for (const what of ["product", "transposed", "gradient"] as const)
    close(found[what], expected[what], toleranceOf("matmul"), `${name}: ${what}`)
}

const vectors = 3
const inputs = (n: number): Float32Array => numbers("x", vectors * n)
const outputs = (n: number): Float32Array => numbers("dy", vectors * n)
/** All rows, nine at a time: no part ends where such a range does, and none is larger than a part. */
const rangesOf = (rows: number): { start: number; end: number }[] =>
  Array.from({ length: Math.ceil(rows / 9) }, (_, i) => ({ start: 9 * i, end: Math.min(rows, 9 * (i + 1)) }))
const idsOf = (rows: number): Int32Array => Int32Array.of(rows - 1, 0, rows >> 1, rows - 1)

async function resultsOn(given: Backend, shape: Weight, packed: HostPacked): Promise<Results> {
  const { limit = given.supports.maxBufferBytes } = shape
  const supports = { ...given.supports, maxBufferBytes: Math.min(limit, given.supports.maxBufferBytes) }
  // With an engine of its own, on the same device.
  const backend = watched({ ...given, supports })
  const weight = weightOf(backend, shape, packed)
  if (shape.limit !== undefined) check(weight.parts.length > 1, `${nameOf(shape)}: it is in one part`)
  const { rows, columns } = shape
  const engine = engineOf(backend)
  const made = scope(engine, () => {
    const x = hold(tensor(backend, inputs(columns), [vectors, columns]))
    const dy = tensor(backend, outputs(rows), [vectors, rows])
    x.requiresGrad = true
    const { value, gradients } = valueAndGradients(engine, () => weight.matmul(x).mul(dy).sum())
    const ids = tensor(backend, idsOf(rows), [4], "i32")
    const tensors: Readonly<Record<keyof Results, readonly Tensor[]>> = {
      product: [weight.matmul(x.detach())],
      transposed: [weight.matmul(dy, { transpose: true })],
      gradient: [gradients.get(x) as Tensor],
      rows: rangesOf(rows).map((range) => weight.rows(range)),
      ids: [weight.rows(ids)],
    }
    return { tensors, others: [x, value] }
  })
  const read = async (what: keyof Results): Promise<readonly number[]> =>
    (await Promise.all(made.tensors[what].map((t) => t.data()))).flatMap((values) => [...values])
  const [product, transposed, gradient, all, byIds] = await Promise.all(
    (["product", "transposed", "gradient", "rows", "ids"] as const).map(read),
  )
  for (const t of [...Object.values(made.tensors).flat(), ...made.others]) free(t)
  weight.free()
  check(backend.live() === 0, `${nameOf(shape)}: ${backend.live()} buffers were left behind`)
  return { product, transposed, gradient, rows: all, ids: byIds } as Results
}

function weightOf(backend: Backend, { rows, columns }: Weight, packed: HostPacked): PackedWeight {
  const { layout, codes, scales, nestedScales, minimums } = packed
  const blocks = Math.ceil((rows * columns) / layout.blockSize)
  const data = {
    codes: codes.subarray(0, Math.ceil((rows * columns * layout.bits) / 8)),
    scales: scales.subarray(0, blocks),
    ...(nestedScales ? { nestedScales } : {}),
    ...(minimums ? { minimums } : {}),
  }
  return packedWeight(backend, layout, [rows, columns], data)
}

function onHost({ rows, columns }: Weight, { values }: HostPacked): Results {
  const [x, dy] = [inputs(columns), outputs(rows)]
  const at = (row: number, column: number): number => values[row * columns + column] as number
  const sum = (n: number, term: (i: number) => number): number =>
    Array.from({ length: n }, (_, i) => term(i)).reduce((a, b) => a + b, 0)
  const product = Array.from({ length: vectors * rows }, (_, to) => {
    const [i, row] = [Math.floor(to / rows), to % rows]
    return sum(columns, (c) => (x[i * columns + c] as number) * at(row, c))
  })
  const transposed = Array.from({ length: vectors * columns }, (_, to) => {
    const [i, column] = [Math.floor(to / columns), to % columns]
    return sum(rows, (r) => (dy[i * rows + r] as number) * at(r, column))
  })
  const byIds = [...idsOf(rows)].flatMap((row) => [...values.subarray(row * columns, (row + 1) * columns)])
  return { product, transposed, gradient: transposed, rows: [...values], ids: byIds }
}
