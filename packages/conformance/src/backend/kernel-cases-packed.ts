/** Cases of the optional kernels over packed matrices, as kernels: whole rows of a matrix whose blocks run across row ends. */
import type { Backend, PackedLayout, PackedOperand } from "@peftjs/core"
import { bytesTable } from "@peftjs/core"
import { numbers } from "./host.ts"
import type { KernelCase } from "./kernel-check.ts"

interface Shape {
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
export const packedShapes: readonly Shape[] = [
  { ...whole, bits: 4, rows: 1, columns: 2, blockSize: 2 },
  { ...whole, bits: 4, rows: 5, columns: 64, blockSize: 32 },
  { ...whole, bits: 4, rows: 9, columns: 7, blockSize: 16 },
  { bits: 4, rows: 6, columns: 33, blockSize: 16, offset: 5, skip: 3, nestedBlock: 4 },
  { bits: 4, rows: 33, columns: 40, blockSize: 64, offset: 6, skip: 1, nestedBlock: 8, dtype: "bf16" },
  { bits: 4, rows: 3, columns: 64, blockSize: 32, offset: 3, skip: 0, minimums: true, dtype: "f16" },
  { ...whole, bits: 8, rows: 7, columns: 9, blockSize: 9 },
  { bits: 8, rows: 4, columns: 10, blockSize: 7, offset: 3, skip: 2, nestedBlock: 4 },
]

/** A matrix of a shape: its contents on the host, and its values by the layout's words. */
export interface HostPacked {
  readonly layout: PackedLayout
  readonly shape: Shape
  readonly codes: Uint8Array
  readonly scales: Float32Array | Uint8Array
  readonly nestedScales?: Float32Array
  readonly minimums?: Float32Array
  readonly values: Float32Array
}

/** Multiples of 1 / parts, so that products and sums are exact in f32. */
const multiples = (name: string, n: number, parts: number, low = -1, high = 1): Float32Array =>
  numbers(name, n, low, high).map((x) => Math.round(x * parts) / parts)
const bytes = (name: string, n: number): Uint8Array => Uint8Array.from(numbers(name, n, 0, 256))

export function hostPacked(shape: Shape): HostPacked {
  const { bits, rows, columns, blockSize, offset, skip, nestedBlock, dtype = "f32" } = shape
  const elements = rows * columns
  const blocks = Math.ceil((offset + elements) / blockSize)
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
  const codes = bytes("codes", (blocks * blockSize * bits) / 8)
  const nestedBlocks = nestedBlock ? Math.ceil((skip + blocks) / nestedBlock) : 0
  const scales = nestedBlock
    ? bytes("scales", nestedBlocks * nestedBlock)
    : multiples("scales", skip + blocks, 8, 0.5, 1.5)
  const nestedScales = nestedBlock ? multiples("nested scales", nestedBlocks, 4, 0.5, 1.5) : undefined
  const minimums = shape.minimums ? multiples("minimums", blocks, 64) : undefined
  const scaleAt = (block: number): number => {
    const at = skip + block
    if (!nested || !nestedScales) return scales[at] as number
    const outer = nestedScales[Math.floor(at / nested.blockSize)] as number
    return (nested.codeBook[scales[at] as number] as number) * outer + nested.offset
  }
  const values = Float32Array.from({ length: elements }, (_, i) => {
    const at = offset + i
    const block = Math.floor(at / blockSize)
    const byte = codes[bits === 8 ? at : at >> 1] as number
    const code = bits === 8 ? byte : at % 2 === 0 ? byte >> 4 : byte & 15
    return (layout.codeBook[code] as number) * scaleAt(block) + (minimums?.[block] ?? 0)
  })
  return {
    layout,
    shape,
    codes,
    scales,
    values,
    ...(nestedScales ? { nestedScales } : {}),
    ...(minimums ? { minimums } : {}),
  }
}

type Run = (kernels: Required<Backend["kernels"]>, w: PackedOperand, x: never) => ReturnType<KernelCase["run"]>

function packedCase(
  label: string,
  packed: HostPacked,
  x: readonly Float32Array[],
  run: Run,
): Omit<KernelCase, "expected"> {
  const { layout, shape, codes, scales, nestedScales, minimums } = packed
  const table = bytesTable(layout)
  const optional = [nestedScales, layout.nested?.codeBook, minimums]
  const inputs = [codes, table, scales, ...optional.filter((data) => data !== undefined), ...x].map((data) => ({
    data,
    dtype: data instanceof Uint8Array ? ("u8" as const) : ("f32" as const),
  }))
  return {
    label,
    inputs,
    run({ kernels }, buffers) {
      const rest = buffers.slice(3)
      const [nested, book] = nestedScales ? rest.splice(0, 2) : []
      const [low] = minimums ? rest.splice(0, 1) : []
      const [c, b, s] = buffers as [never, never, never]
      const w: PackedOperand = {
        ...{ layout, offset: shape.offset, skip: shape.skip, codes: c, book: b, scales: s },
        ...(nested && book ? { nested: { scales: nested, book } } : {}),
        ...(low ? { minimums: low } : {}),
      }
      return run(kernels as Required<Backend["kernels"]>, w, rest[0] as never)
    },
  }
}

const nameOf = ({ bits, rows, columns, blockSize, nestedBlock, minimums, dtype }: Shape): string =>
  `[${rows}, ${columns}] of ${bits} bits in blocks of ${blockSize}${nestedBlock ? ", nested" : ""}${minimums ? ", with minimums" : ""}${dtype ? `, ${dtype}` : ""}`

export const unpackCases: readonly KernelCase[] = packedShapes.flatMap((shape) => {
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

export const packedMatmulCases: readonly KernelCase[] = packedShapes.flatMap((shape) => {
  const packed = hostPacked(shape)
  const { rows, columns } = shape
  return [0, 1, 3, 37].flatMap((m) =>
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
