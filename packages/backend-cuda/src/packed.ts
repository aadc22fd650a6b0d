/**
 * Packed matrices: codes are looked up, two to a byte, and scaled, a block of rows at a time; no more than that exists as f32.
 * Knows layouts, no formats.
 */
import { type DeviceBuffer, type FusedKernels, invariant, type PackedOperand } from "@peftjs/core"
import { add, cast, mul, reshape, rowsOf, sliced } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import type { Ops } from "./ops.ts"
import { productByRows } from "./product-by-rows.ts"
import type { TfTensor } from "./tf-runtime.ts"

/** Elements that are unpacked at a time: 64 MiB of f32. */
const blockElements = 2 ** 24

export function createUnpack(device: Device): FusedKernels["unpack"] {
  return (w, { start, end, columns }) =>
    device.produce(
      () => `unpack of rows ${start}…${end} of ${columns} (${w.layout.format})`,
      "f32",
      (end - start) * columns,
      (ops) => rowsAt(ops, w, columns, start, end - start),
    )
}

export function createPackedMatmul(device: Device, limit: number = blockElements): FusedKernels["packedMatmul"] {
  return (x, w, { m, rows, columns, transpose }) => {
    const [n, k] = transpose ? [columns, rows] : [rows, columns]
    invariant(x.length === m * k, `backend-cuda: packedMatmul of ${x.length} elements as [${m}, ${k}]`)
    const step = Math.max(1, Math.floor(limit / columns))
    return device.produce(
      () => `packedMatmul of [${m}, ${k}] with [${rows}, ${columns}] (${w.layout.format})`,
      "f32",
      m * n,
      (ops) =>
        productByRows(ops, cast(ops, ops.of(x, [m, k]), "f32"), { rows, columns, transpose, step }, (start, count) =>
          rowsAt(ops, w, columns, start, count),
        ),
    )
  }
}

/** Rows as f32 [count, columns]. */
function rowsAt(ops: Ops, w: PackedOperand, columns: number, start: number, count: number): TfTensor {
  const { blockSize, bits } = w.layout
  const first = w.offset + start * columns
  const last = first + count * columns
  const [from, to] = [Math.floor(first / blockSize), Math.ceil(last / blockSize)]
  const blocks = [to - from, blockSize]
  const bytes = (blockSize * bits) / 8
  const found = valuesOf(ops, w.codes, w.book, from * bytes, to * bytes, 8 / bits)
  const scaled = mul(ops, reshape(ops, found, blocks), reshape(ops, scalesOf(ops, w, from, to), [to - from, 1]))
  ops.drop(found)
  const low = w.minimums && sliced(ops, ops.of(w.minimums, [w.minimums.length]), 0, from, to - from)
  const values = low ? add(ops, scaled, reshape(ops, low, [to - from, 1])) : scaled
  const flat = reshape(ops, values, [(to - from) * blockSize])
  const part = sliced(ops, flat, 0, first - from * blockSize, count * columns)
  return reshape(ops, part, [count, columns])
}

/** What bytes start…end-1 stand for: `each` numbers of a table for a byte. */
function valuesOf(
  ops: Ops,
  codes: DeviceBuffer,
  book: DeviceBuffer,
  start: number,
  end: number,
  each: number,
): TfTensor {
  const bytes = sliced(ops, ops.of(codes, [codes.length]), 0, start, end - start)
  const ids = cast(ops, bytes, "i32")
  const values = rowsOf(ops, ops.of(book, [256, each]), ids)
  ops.drop(bytes, ids)
  return values
}

/** Scales of blocks from…to-1. */
function scalesOf(ops: Ops, { layout, skip, scales, nested }: PackedOperand, from: number, to: number): TfTensor {
  if (!layout.nested || !nested) return sliced(ops, ops.of(scales, [scales.length]), 0, skip + from, to - from)
  const { blockSize, offset } = layout.nested
  const [low, high] = [Math.floor((skip + from) / blockSize), Math.ceil((skip + to) / blockSize)]
  const codes = valuesOf(ops, scales, nested.book, low * blockSize, high * blockSize, 1)
  const outer = sliced(ops, ops.of(nested.scales, [nested.scales.length]), 0, low, high - low)
  const all = mul(ops, reshape(ops, codes, [high - low, blockSize]), reshape(ops, outer, [high - low, 1]))
  const moved = reshape(ops, add(ops, all, ops.scalar(offset)), [(high - low) * blockSize])
  return sliced(ops, moved, 0, skip + from - low * blockSize, to - from)
}
