/**
 * Computing with a packed matrix: by a backend's own kernels where it has them, else by required kernels in blocks of rows, so that the
 * dense matrix never exists. Frozen: gradients flow into x alone. Must not know any format.
 */
import type { PackedOperand, Product } from "./backend.ts"
import { bufferOf, type Engine, free, hold, scope, wrap } from "./engine.ts"
import { call, input, scalar } from "./expr.ts"
import type { Op } from "./op.ts"
import { apply } from "./op.ts"
import { gatherOp, gatherPart } from "./ops/linear.ts"
import type { PackedLayout } from "./packed-layout.ts"
import { waitingProduct } from "./sums.ts"
import { concat, map, type Tensor } from "./tensor.ts"
import type { Range } from "./weight.ts"

/** Whole rows of a packed matrix on the device. Its blocks are whole: they begin before its first element where a block crosses a row's end. */
export interface PackedPart extends Range {
  /** Elements that stand before the first row's. */
  readonly offset: number
  /** Scales that stand before the first block's: nested blocks are whole too. */
  readonly skip: number
  /** u8. */
  readonly codes: Tensor
  /** f32, or u8 where nested. */
  readonly scales: Tensor
  readonly nestedScales?: Tensor
  readonly minimums?: Tensor
}

/** A packed matrix on the device. */
export interface PackedStorage {
  readonly layout: PackedLayout
  /** [rows, columns]. */
  readonly shape: readonly [number, number]
  readonly parts: readonly PackedPart[]
  /** Value of each byte: [256, 2] where codes have 4 bits, else [256, 1]. */
  readonly book: Tensor
  /** [256, 1]. */
  readonly nestedBook?: Tensor
}

/** Elements that are unpacked at a time: 4 MiB of f32. */
const blockElements = 2 ** 20

const withOffset = call("add", call("mul", input(0), input(1)), scalar(0))
const scaled = call("mul", input(0), input(1))
const scaledFrom = call("add", scaled, input(2))

/** Rows of a part (numbered in the matrix) as f32 [end - start, columns]. */
function unpack(storage: PackedStorage, part: PackedPart, { start, end }: Range): Tensor {
  const { layout, shape, book } = storage
  const { engine } = book
  const fused = engine.backend.kernels.unpack
  const columns = shape[1]
  if (fused) {
    const dims = { start: start - part.start, end: end - part.start, columns }
    return wrap(engine, fused(operandOf(storage, part), dims), [end - start, columns])
  }
  const { bits, blockSize } = layout
  const first = part.offset + (start - part.start) * columns
  const last = part.offset + (end - part.start) * columns
  const [from, to] = [Math.floor(first / blockSize), Math.ceil(last / blockSize)]
  const bytes = (blockSize * bits) / 8
  const values = byCode(book, part.codes.slice(0, from * bytes, to * bytes)).reshape([to - from, blockSize])
  const scales = scalesOf(storage, part, from, to).reshape([-1, 1])
  const found = part.minimums
    ? map(scaledFrom, [values, scales, part.minimums.slice(0, from, to).reshape([-1, 1])])
    : map(scaled, [values, scales])
  return found
    .reshape([-1])
    .slice(0, first - from * blockSize, last - from * blockSize)
    .reshape([end - start, columns])
}

/** Rows of a table by codes. */
const byCode = (table: Tensor, codes: Tensor): Tensor =>
  apply(gatherOp, [table, map(input(0), [codes], { dtype: "i32" })], null)

/** Scales of blocks from…to-1 of a part. */
function scalesOf({ layout, nestedBook }: PackedStorage, part: PackedPart, from: number, to: number): Tensor {
  const { nested } = layout
  if (!nested || !nestedBook || !part.nestedScales) return part.scales.slice(0, from, to)
  const size = nested.blockSize
  const [low, high] = [Math.floor((part.skip + from) / size), Math.ceil((part.skip + to) / size)]
  const values = byCode(nestedBook, part.scales.slice(0, low * size, high * size)).reshape([high - low, size])
  const outer = part.nestedScales.slice(0, low, high).reshape([-1, 1])
  const all = map(withOffset, [values, outer], { scalars: [nested.offset] })
  return all.reshape([-1]).slice(0, part.skip + from - low * size, part.skip + to - low * size)
}

function operandOf({ layout, book, nestedBook }: PackedStorage, part: PackedPart): PackedOperand {
  const { offset, skip, codes, scales, nestedScales, minimums } = part
  return {
    layout,
    offset,
    skip,
    codes: bufferOf(codes),
    book: bufferOf(book),
    scales: bufferOf(scales),
    ...(minimums ? { minimums: bufferOf(minimums) } : {}),
    ...(nestedScales && nestedBook ? { nested: { scales: bufferOf(nestedScales), book: bufferOf(nestedBook) } } : {}),
  }
}

function tensorsOf({ book, nestedBook }: PackedStorage, part: PackedPart): Tensor[] {
  const all = [book, nestedBook, part.codes, part.scales, part.nestedScales, part.minimums]
  return all.filter((t) => t !== undefined)
}

/** A part in blocks of rows that may exist as f32 at a time. */
function blocksOf({ start, end }: Range, columns: number): Range[] {
  const step = Math.max(1, Math.floor(blockElements / columns))
  const count = Math.ceil((end - start) / step)
  return Array.from({ length: count }, (_, i) => ({
    start: start + i * step,
    end: Math.min(end, start + (i + 1) * step),
  }))
}

/** The sum of tensors that are made one after the other; what each took is given back before the next. */
function added(engine: Engine, terms: readonly (() => Tensor)[]): Tensor {
  let sum: Tensor | undefined
  for (const term of terms) {
    const before = sum
    sum = scope(engine, () => hold(before ? before.add(term()) : term()))
    if (before) free(before)
  }
  const held = sum as Tensor
  const own = held.detach()
  free(held)
  return own
}

/** x [n, columns] → x·Wᵀ [n, rows]; with transpose, x [n, rows] → x·W [n, columns]. */
export const packedMatmulOp: Op<{ storage: PackedStorage; transpose: boolean }> = {
  forward([x], { storage, transpose }) {
    const t = x as Tensor
    const { engine } = t
    const { shape, parts } = storage
    const [m, columns] = [t.shape[0] as number, shape[1]]
    const [only] = parts.length === 1 ? parts : []
    if (only) {
      const [k, n] = transpose ? shape : [columns, shape[0]]
      const product = (): Product => ({
        ...{ alpha: 1, a: bufferOf(t), b: operandOf(storage, only), k, transA: false, transB: !transpose },
      })
      const waiting = waitingProduct(engine, m, n, product, [t, ...tensorsOf(storage, only)])
      if (waiting) return waiting
    }
    const fused = engine.backend.kernels.packedMatmul
    const product = (part: PackedPart, x: Tensor): Tensor => {
      const rows = part.end - part.start
      const dims = { m, rows, columns, transpose }
      return wrap(engine, (fused as NonNullable<typeof fused>)(bufferOf(x), operandOf(storage, part), dims), [
        m,
        transpose ? columns : rows,
      ])
    }
    // Each stretch of rows: its own part's product, or its values for an ordinary one.
    const stretches = parts.flatMap((part) =>
      (fused ? [part] : blocksOf(part, columns)).map((rows) => ({ part, rows })),
    )
    if (!transpose) {
      const outs = stretches.map(({ part, rows }) =>
        scope(engine, () => (fused ? product(part, t) : t.matmul(unpack(storage, part, rows).T))),
      )
      return concat(outs, -1)
    }
    return added(
      engine,
      stretches.map(({ part, rows }) => () => {
        const some = rows.end - rows.start === shape[0] ? t : t.slice(-1, rows.start, rows.end)
        return fused ? product(part, some) : some.matmul(unpack(storage, part, rows))
      }),
    )
  },
  saves: () => [],
  gradient: ({ dy, args: { storage, transpose } }) => [apply(packedMatmulOp, [dy], { storage, transpose: !transpose })],
}

/** Rows start…end-1 as f32. */
export function packedRows(storage: PackedStorage, { start, end }: Range): Tensor {
  return scope(storage.book.engine, () =>
    concat(
      storage.parts
        .filter((p) => p.start < end && p.end > start)
        .map((p) => unpack(storage, p, { start: Math.max(start, p.start), end: Math.min(end, p.end) })),
      0,
    ),
  )
}

/** Rows by ids i32 [n] → [n, columns]: each block is unpacked once and gives what is asked of it. */
export function packedRowsAt(storage: PackedStorage, ids: Tensor): Tensor {
  const { shape, parts } = storage
  const blocks = parts.flatMap((part) => blocksOf(part, shape[1]).map((rows) => ({ part, rows })))
  return added(
    ids.engine,
    blocks.map(
      ({ part, rows }) =>
        () =>
          gatherPart(unpack(storage, part, rows), ids, rows.start, rows.end),
    ),
  )
}
