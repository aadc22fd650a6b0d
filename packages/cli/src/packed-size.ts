/** How much memory the quantised layers of a model take. Must not know how they are quantised. */
import { bufferOf, bytesPerElement, isTensor, type Model, type PackedWeight, type Tensor } from "@peftjs/core"

export interface PackedSize {
  readonly layers: number
  readonly values: number
  /** Of the buffers that hold them, tables included, and what that makes for each value. */
  readonly bytes: number
  readonly bits_per_value: number
}

/** What the quantised layers take, by the buffers that really hold them; nothing where no layer is quantised. */
export function packedSize({ params }: Model): PackedSize | undefined {
  const weights = [...params.values()].filter((value): value is PackedWeight => !isTensor(value) && "packed" in value)
  if (weights.length === 0) return undefined
  const tensors = weights.flatMap(({ packed: { parts, book, nestedBook } }) => [
    ...parts.flatMap(({ codes, scales, nestedScales, minimums }) => [codes, scales, nestedScales, minimums]),
    ...[book, nestedBook],
  ])
  // Tables are shared by the layers.
  const held = [...new Set(tensors)].filter((t) => t !== undefined)
  const bytes = held.reduce((sum, t) => sum + heldBytes(t), 0)
  const values = weights.reduce((sum, { shape: [rows, columns] }) => sum + rows * columns, 0)
  return { layers: weights.length, values, bytes, bits_per_value: (8 * bytes) / values }
}

type CpuBuffer = ReturnType<typeof bufferOf> & {
  readonly data?: ArrayBufferView
  readonly block?: { readonly bytes: number }
}

/** Of the memory behind it where that can be seen, as on the CPU, whose buffers are often larger than what they hold. */
function heldBytes(t: Tensor): number {
  const { data, block, length, dtype } = bufferOf(t) as CpuBuffer
  return block?.bytes ?? data?.buffer.byteLength ?? length * bytesPerElement[dtype]
}
