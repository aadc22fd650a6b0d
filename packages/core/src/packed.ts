/**
 * A weight over a packed matrix: a few bits per value with a scale for each block. It is stored in parts of whole rows like any weight,
 * although blocks run across row ends. Must not know any format: that is the layout's.
 */
import type { Backend } from "./backend.ts"
import { bytesPerElement } from "./dtype.ts"
import { type Engine, engineOf, free, tensor } from "./engine.ts"
import { PeftError } from "./errors.ts"
import { apply } from "./op.ts"
import { bytesTable, type PackedData, type PackedLayout, packedSizes } from "./packed-layout.ts"
import { type PackedPart, type PackedStorage, packedMatmulOp, packedRows, packedRowsAt } from "./packed-product.ts"
import type { Tensor } from "./tensor.ts"
import type { TensorRef, Weight } from "./weight.ts"

/** A weight that says how it is packed, so that it can be written as it is. */
export interface PackedWeight extends Weight {
  readonly packed: PackedStorage
}

/**
 * Uploads a packed matrix. Throws E_SHAPE where the data does not have the layout's sizes, E_UNSUPPORTED on a backend without u8,
 * E_BUFFER_SIZE where not even a row fits into a buffer.
 */
export function packedWeight(
  backend: Backend,
  layout: PackedLayout,
  shape: readonly [number, number],
  data: PackedData,
  options: { readonly source?: TensorRef } = {},
): PackedWeight {
  checkData(layout, shape, data)
  checkBackend(backend, layout)
  const [rows, columns] = shape
  const engine = engineOf(backend)
  const inner = layout.nested?.codeBook
  const packed = upload(backend, layout, shape, data)
  const { parts } = packed
  const own = parts.flatMap((p) => [p.codes, p.scales, ...[p.nestedScales, p.minimums].filter((t) => t !== undefined)])
  return {
    format: layout.format,
    shape,
    bytes: own.reduce((sum, t) => sum + t.size * bytesPerElement[t.dtype], 0),
    ...options,
    parts: parts.map(({ start, end }) => ({ start, end })),
    packed,
    matmul(x, { transpose = false } = {}) {
      const [from, to] = transpose ? [rows, columns] : [columns, rows]
      const flat = x.shape.length === 2 ? x : x.reshape([-1, from])
      return apply(packedMatmulOp, [flat], { storage: packed, transpose }).reshape([...x.shape.slice(0, -1), to])
    },
    rows(which) {
      if (!("shape" in which)) return packedRows(packed, which)
      return packedRowsAt(packed, which.reshape([-1])).reshape([...which.shape, columns])
    },
    free() {
      for (const t of own) free(t)
      giveBook(engine, layout.codeBook)
      if (inner) giveBook(engine, inner)
    },
  }
}

/**
 * A weight outlives the scope that happens to be open when it is made. Called, and no closure in `packedWeight`: those of one function keep
 * what any of them uses, and a weight's would keep the data it was made from.
 */
function upload(
  backend: Backend,
  layout: PackedLayout,
  shape: readonly [number, number],
  data: PackedData,
): PackedStorage {
  const engine = engineOf(backend)
  const inner = layout.nested?.codeBook
  const step = rowsPerPart(backend, layout, shape[1])
  const starts = Array.from({ length: Math.ceil(shape[0] / step) }, (_, i) => i * step)
  const { scope } = engine
  engine.scope = undefined
  try {
    return {
      layout,
      shape,
      parts: starts.map((start) => uploadPart(backend, layout, shape, data, start, Math.min(shape[0], start + step))),
      book: takeBook(engine, layout.codeBook, () => bytesTable(layout), layout.bits === 4 ? 2 : 1),
      ...(inner ? { nestedBook: takeBook(engine, inner, () => inner, 1) } : {}),
    }
  } finally {
    engine.scope = scope
  }
}

/** One kind of a packed weight's contents, copied back to the host as `packedWeight` was given it. */
export async function readPacked(
  { layout, shape, parts }: PackedStorage,
  kind: "codes" | "scales" | "nestedScales",
): Promise<Uint8Array | Float32Array> {
  const { bits, blockSize, nested } = layout
  const sizes = packedSizes(layout, shape[0] * shape[1])
  const length = { codes: sizes.bytes, scales: sizes.blocks, nestedScales: sizes.nestedBlocks }[kind]
  const whole = kind === "codes" || (kind === "scales" && nested) ? new Uint8Array(length) : new Float32Array(length)
  for (const part of parts) {
    const stored = part[kind]
    if (!stored) continue
    const block = Math.floor((part.start * shape[1]) / blockSize)
    const scale = block - part.skip
    const at = { codes: (block * blockSize * bits) / 8, scales: scale, nestedScales: scale / (nested?.blockSize ?? 1) }
    const values = (await stored.data()) as Uint8Array
    whole.set(values.subarray(0, length - at[kind]), at[kind])
  }
  return whole
}

function checkData(layout: PackedLayout, shape: readonly [number, number], data: PackedData): void {
  const { bytes, blocks, nestedBlocks } = packedSizes(layout, shape[0] * shape[1])
  const wrong = [
    data.codes.length === bytes ? "" : `${data.codes.length} bytes of codes, not ${bytes}`,
    data.scales.length === blocks ? "" : `${data.scales.length} scales, not ${blocks}`,
    (data.nestedScales?.length ?? 0) === nestedBlocks
      ? ""
      : `${data.nestedScales?.length ?? 0} nested scales, not ${nestedBlocks}`,
    (data.minimums?.length ?? blocks) === blocks ? "" : `${data.minimums?.length} minimums, not ${blocks}`,
    layout.codeBook.length === 2 ** layout.bits ? "" : `a code book of ${layout.codeBook.length} values`,
    (layout.blockSize * layout.bits) % 8 === 0 ? "" : `blocks of ${layout.blockSize} codes of ${layout.bits} bits`,
    data.scales instanceof Uint8Array === (layout.nested !== undefined) ? "" : "scales of the wrong kind",
  ].filter((what) => what !== "")
  if (wrong.length === 0) return
  throw new PeftError("E_SHAPE", `[core] a ${layout.format} matrix [${shape}] was given ${wrong.join("; ")}`)
}

function checkBackend({ name, supports }: Backend, { format }: PackedLayout): void {
  if (supports.dtypes.includes("u8")) return
  throw new PeftError(
    "E_UNSUPPORTED",
    `[core] a ${format} weight needs u8; ${name} holds ${supports.dtypes.join(", ")}; use dense weights there`,
  )
}

/** How many rows may be one part: as f32, with the blocks it shares, they fit into a buffer. */
function rowsPerPart(backend: Backend, { format, blockSize }: PackedLayout, columns: number): number {
  const rows = Math.floor((backend.supports.maxBufferBytes / 4 - 2 * blockSize) / columns)
  if (rows >= 1) return rows
  throw new PeftError(
    "E_BUFFER_SIZE",
    `[core] a row of ${columns} values and the blocks of ${blockSize} it shares do not fit into ${backend.name}'s buffers of ${backend.supports.maxBufferBytes} bytes; a ${format} weight cannot be split further`,
  )
}

function uploadPart(
  backend: Backend,
  layout: PackedLayout,
  [, columns]: readonly [number, number],
  { codes, scales, nestedScales, minimums }: PackedData,
  start: number,
  end: number,
): PackedPart {
  const { bits, blockSize, nested } = layout
  const [from, to] = [Math.floor((start * columns) / blockSize), Math.ceil((end * columns) / blockSize)]
  const bytes = (blockSize * bits) / 8
  const size = nested?.blockSize ?? 1
  const [low, high] = nested ? [Math.floor(from / size), Math.ceil(to / size)] : [from, to]
  const put = (x: Uint8Array | Float32Array, a: number, b: number): Tensor => {
    // The last block may be short; on the device it is as long as the others.
    const part = x.subarray(a, b)
    const padded =
      part.length === b - a ? part : part instanceof Uint8Array ? new Uint8Array(b - a) : new Float32Array(b - a)
    if (padded !== part) padded.set(part)
    return tensor(backend, padded, [b - a], x instanceof Uint8Array ? "u8" : "f32")
  }
  return {
    start,
    end,
    offset: start * columns - from * blockSize,
    skip: from - low * size,
    codes: put(codes, from * bytes, to * bytes),
    scales: put(scales, low * size, high * size),
    ...(nestedScales ? { nestedScales: put(nestedScales, low, high) } : {}),
    ...(minimums ? { minimums: put(minimums, from, to) } : {}),
  }
}

/** Code books on the device, one for all weights that share the array. */
const books = new WeakMap<Engine, Map<Float32Array, { readonly table: Tensor; users: number }>>()

function takeBook(engine: Engine, codeBook: Float32Array, values: () => Float32Array, width: number): Tensor {
  const known = books.get(engine) ?? new Map<Float32Array, { table: Tensor; users: number }>()
  books.set(engine, known)
  const found = known.get(codeBook) ?? {
    table: tensor(engine.backend, values(), [values().length / width, width]),
    users: 0,
  }
  known.set(codeBook, found)
  found.users++
  return found.table
}

function giveBook(engine: Engine, codeBook: Float32Array): void {
  const known = books.get(engine)
  const found = known?.get(codeBook)
  if (!known || !found || --found.users > 0) return
  known.delete(codeBook)
  free(found.table)
}
