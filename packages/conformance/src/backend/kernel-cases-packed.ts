/** Cases of the optional kernels over packed matrices, as kernels: whole rows of a matrix whose blocks run across row ends. */
import type { Backend, DeviceBuffer, PackedLayout, PackedOperand } from "@peftjs/core"
import { bytesTable } from "@peftjs/core"
import { numbers } from "./host.ts"
import { type HostPart, packedValues } from "./host-packed.ts"
import type { KernelCase } from "./kernel-check.ts"

export interface PackedShape {
  readonly bits: 4 | 8
  readonly rows: number
  readonly columns: number
  readonly blockSize: number
  /** Elements of the first block, and scales of the first nested block, that belong to rows before. */
  readonly offset: number
  readonly skip: number
  readonly nestedBlock?: number
  readonly minimums?: true
  readonly dtype?: "bf16" | "f16"
}

const whole = { offset: 0, skip: 0 }
/** Of both widths, aligned and not, nested and not, with minimums and without; a square one, and one of more rows than a tile of 64. */
const shapes: readonly PackedShape[] = [
  { ...whole, bits: 4, rows: 1, columns: 2, blockSize: 2 },
  { ...whole, bits: 4, rows: 5, columns: 64, blockSize: 32 },
  { ...whole, bits: 4, rows: 9, columns: 7, blockSize: 16 },
  { bits: 4, rows: 6, columns: 33, blockSize: 16, offset: 5, skip: 3, nestedBlock: 4 },
  { bits: 4, rows: 33, columns: 40, blockSize: 64, offset: 6, skip: 1, nestedBlock: 8, dtype: "bf16" },
  { bits: 4, rows: 3, columns: 64, blockSize: 32, offset: 3, skip: 0, minimums: true, dtype: "f16" },
  { ...whole, bits: 4, rows: 5, columns: 64, blockSize: 32, minimums: true },
  { bits: 4, rows: 7, columns: 7, blockSize: 8, offset: 3, skip: 2, nestedBlock: 4, minimums: true },
  { bits: 4, rows: 66, columns: 36, blockSize: 64, offset: 32, skip: 3, nestedBlock: 16 },
  { ...whole, bits: 8, rows: 7, columns: 9, blockSize: 9 },
  { ...whole, bits: 8, rows: 6, columns: 64, blockSize: 32 },
  { bits: 8, rows: 4, columns: 10, blockSize: 7, offset: 3, skip: 2, nestedBlock: 4 },
  { bits: 8, rows: 5, columns: 12, blockSize: 8, offset: 4, skip: 0, minimums: true },
]

/** A matrix of a shape on the host, and its values. */
export interface HostPacked extends HostPart {
  readonly values: Float32Array
}

/** Multiples of 1 / parts, so that products and sums are exact in f32. */
const multiples = (name: string, n: number, parts: number, low = -1, high = 1): Float32Array =>
  numbers(name, n, low, high).map((x) => Math.round(x * parts) / parts)
const bytes = (name: string, n: number): Uint8Array => Uint8Array.from(numbers(name, n, 0, 256))

export function hostPacked(shape: PackedShape): HostPacked {
  const { bits, rows, columns, blockSize, offset, skip, nestedBlock, dtype = "f32" } = shape
  const blocks = Math.ceil((offset + rows * columns) / blockSize)
  const nested = nestedBlock && {
    codeBook: multiples("nested book", 256, 8),
    blockSize: nestedBlock,
    offset: 0.75,
  }
  const layout: PackedLayout = {
    format: "packed",
    bits,
    codeBook: multiples("code book", 2 ** bits, 4096),
    blockSize,
    dtype,
    ...(nested ? { nested } : {}),
  }
  const nestedBlocks = nestedBlock ? Math.ceil((skip + blocks) / nestedBlock) : 0
  const part: HostPart = {
    ...{ layout, offset, skip },
    codes: bytes("codes", (blocks * blockSize * bits) / 8),
    scales: nestedBlock ? bytes("scales", nestedBlocks * nestedBlock) : multiples("scales", skip + blocks, 8, 0.5, 1.5),
    ...(nestedBlock ? { nestedScales: multiples("nested scales", nestedBlocks, 4, 0.5, 1.5) } : {}),
    ...(shape.minimums ? { minimums: multiples("minimums", blocks, 64) } : {}),
  }
  return { ...part, values: packedValues(part, rows * columns) }
}

/** What is uploaded for a packed matrix, and the operand that its buffers are. */
export function packedInputs({ layout, offset, skip, codes, scales, nestedScales, minimums }: HostPacked): {
  inputs: KernelCase["inputs"]
  operand(buffers: readonly DeviceBuffer[]): PackedOperand
} {
  const optional = [nestedScales, layout.nested?.codeBook, minimums]
  const inputs = [codes, bytesTable(layout), scales, ...optional.filter((data) => data !== undefined)].map((data) => ({
    data,
    dtype: data instanceof Uint8Array ? ("u8" as const) : ("f32" as const),
  }))
  return {
    inputs,
    operand(buffers) {
      const rest = buffers.slice(3)
      const [nested, book] = nestedScales ? rest.splice(0, 2) : []
      const [low] = minimums ? rest.splice(0, 1) : []
      const [c, b, s] = buffers as [never, never, never]
      return {
        ...{ layout, offset, skip, codes: c, book: b, scales: s },
        ...(nested && book ? { nested: { scales: nested, book } } : {}),
        ...(low ? { minimums: low } : {}),
      }
    },
  }
}

type Run = (kernels: Required<Backend["kernels"]>, w: PackedOperand, x: never) => ReturnType<KernelCase["run"]>

function packedCase(
  label: string,
  packed: HostPacked,
  x: readonly Float32Array[],
  run: Run,
): Omit<KernelCase, "expected"> {
  const { inputs, operand } = packedInputs(packed)
  return {
    label,
    inputs: [...inputs, ...x.map((data) => ({ data }))],
    run({ kernels }, buffers) {
      const w = operand(buffers.slice(0, inputs.length))
      return run(kernels as Required<Backend["kernels"]>, w, buffers[inputs.length] as never)
    },
  }
}

const nameOf = ({ bits, rows, columns, blockSize, nestedBlock, minimums, dtype }: PackedShape): string =>
  `[${rows}, ${columns}] of ${bits} bits in blocks of ${blockSize}${nestedBlock ? ", nested" : ""}${minimums ? ", with minimums" : ""}${dtype ? `, ${dtype}` : ""}`

export const unpackCases: readonly KernelCase[] = shapes.flatMap((shape) => {
  const packed = hostPacked(shape)
  const { rows, columns } = shape
  const ranges = [
    [0, rows],
    [Math.floor(rows / 2), rows],
    [0, 0],
  ] as const
  return ranges.map(
    ([start, end]): KernelCase => ({
      ...packedCase(`unpack rows ${start}…${end} of ${nameOf(shape)}`, packed, [], (k, w) =>
        k.unpack(w, { start, end, columns }),
      ),
      expected: packed.values.slice(start * columns, end * columns),
    }),
  )
})

export const packedMatmulCases: readonly KernelCase[] = shapes.flatMap((shape) => {
  const packed = hostPacked(shape)
  const { rows, columns } = shape
  return [0, 1, 3, 37, ...(columns < 32 ? [65] : [])].flatMap((m) =>
    [false, true].map((transpose): KernelCase => {
      const [k, n] = transpose ? [rows, columns] : [columns, rows]
      const x = numbers("x", m * k)
      const expected = Float64Array.from({ length: m * n }, (_, at) => {
        const [i, j] = [Math.floor(at / n), at % n]
        let sum = 0
        for (let p = 0; p < k; p++)
          sum += (x[i * k + p] as number) * (packed.values[transpose ? p * columns + j : j * columns + p] as number)
        return sum
      })
      const label = `packedMatmul of ${m} rows ${transpose ? "by" : "by the transpose of"} ${nameOf(shape)}`
      return {
        ...packedCase(label, packed, [x], (kernels, w, b) =>
          kernels.packedMatmul(b, w, { m, rows, columns, transpose }),
        ),
        expected,
        tolerance: "matmul",
      }
    }),
  )
})
