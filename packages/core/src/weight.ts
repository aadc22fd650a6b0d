/**
 * Frozen or trainable storage of a matrix, and how it multiplies. Dense here; packed formats are other implementations of `Weight`.
 * Methods never see which, and a backend never receives an operand above its size limit: a weight is stored in parts of whole rows.
 */
import { fromFloat32 } from "@peftjs/safetensors"
import type { Backend } from "./backend.ts"
import type { DType, Shape, TypedArray } from "./dtype.ts"
import { bytesPerElement, fileDtypes, sizeOf } from "./dtype.ts"
import { engineOf, free, scope, tensor } from "./engine.ts"
import { PeftError } from "./errors.ts"
import { call, input, scalar } from "./expr.ts"
import { apply } from "./op.ts"
import { gatherOp, gatherPart } from "./ops/linear.ts"
import { concat, isTensor, map, type Tensor } from "./tensor.ts"
import type { StoredWeight, ValueType, WeightFiles } from "./weight-files.ts"
import type { ReplacedRows } from "./weight-rows.ts"

/** Rows start…end-1. */
export interface Range {
  readonly start: number
  readonly end: number
}

/** Where a weight came from on disk, so that it can be read again in its original precision. */
export interface TensorRef {
  readonly file: string
  readonly name: string
}

export interface Weight {
  /** "f32", "bf16", "f16", or a packed format's name. */
  readonly format: string
  /** [out, in]. */
  readonly shape: readonly [number, number]
  /** Device memory it takes. */
  readonly bytes: number
  readonly source?: TensorRef
  /** Consecutive rows as they are stored; `tensor` where the rows are dense. */
  readonly parts: readonly (Range & { readonly tensor?: Tensor })[]
  /** Rows that stand elsewhere; `parts` are the base's then. */
  readonly replaced?: ReplacedRows
  /** How files hold it, where that is not as dense rows. */
  readonly stored?: StoredWeight
  /** Another matrix of this shape stored as this one is, where that is not as dense rows and can be made here: use `storedLike`. */
  readonly encode?: (rows: AsyncIterable<Float32Array>) => Promise<Weight>
  /** x [..., in] → x·Wᵀ [..., out]; with transpose, x [..., out] → x·W [..., in]. Differentiable in x, and in W where it is trainable. */
  matmul(x: Tensor, options?: { transpose?: boolean }): Tensor
  /** Rows as f32: a range, or those named by ids (i32, any shape, inside 0…out-1) → [..., in]. */
  rows(which: Range | Tensor): Tensor
  /** Gives the memory back. */
  free(): void
}

/** Encodes a matrix that arrives in blocks of whole rows: loading, merging and restarting are all of them this. */
export interface WeightFormat {
  readonly name: string
  /** How folders hold weights of it; without this they are written as dense rows. */
  readonly files?: WeightFiles
  encode(
    backend: Backend,
    shape: readonly [number, number],
    rows: AsyncIterable<Float32Array>,
    options?: EncodeOptions,
  ): Promise<Weight>
}

export interface EncodeOptions {
  /** What the values were stored as; f32 unless told otherwise. */
  readonly dtype?: ValueType
  readonly source?: TensorRef
}

/** A weight over dense tensors of whole rows, in order. Trainable when they are. */
export function denseWeight(tensors: readonly Tensor[], source?: TensorRef): Weight {
  let start = 0
  const parts = tensors.map((t) => {
    const part = { start, end: start + (t.shape[0] as number), tensor: t }
    start = part.end
    return part
  })
  const [first] = parts
  if (!first) throw new PeftError("E_SHAPE", "[core] a weight needs at least one row")
  const inner = first.tensor.shape[1] as number
  const shape = [start, inner] as const
  return {
    format: first.tensor.dtype,
    shape,
    bytes: sizeOf(shape) * bytesPerElement[first.tensor.dtype],
    ...(source ? { source } : {}),
    parts,
    matmul(x, options) {
      if (!options?.transpose)
        return concat(
          parts.map((p) => x.matmul(p.tensor.T)),
          -1,
        )
      if (parts.length === 1) return x.matmul(first.tensor)
      return parts.map((p) => x.slice(-1, p.start, p.end).matmul(p.tensor)).reduce((a, b) => a.add(b))
    },
    rows(which) {
      if (!("shape" in which)) return rowsOf(parts, which)
      const ids = which.reshape([-1])
      const found = parts.map((p) =>
        parts.length === 1 ? apply(gatherOp, [p.tensor, ids], null) : gatherPart(p.tensor, ids, p.start, p.end),
      )
      return found.reduce((a, b) => a.add(b)).reshape([...which.shape, inner])
    },
    free() {
      for (const p of parts) free(p.tensor)
    },
  }
}

/** The dense tensors a weight holds itself: what is trained of it. */
export function ownTensors(weight: Weight): Tensor[] {
  return weight.replaced ? [weight.replaced.rows] : weight.parts.flatMap((part) => (part.tensor ? [part.tensor] : []))
}

/** A dense f32 copy in parts the backend takes; `keep` decides what becomes of each. */
export function denseCopy(backend: Backend, weight: Weight, keep: (part: Tensor) => Tensor): Weight {
  const [rows, columns] = weight.shape
  const step = rowsPerPart(backend, columns, "f32")
  const parts: Tensor[] = []
  for (let start = 0; start < rows; start += step) {
    const end = Math.min(rows, start + step)
    parts.push(scope(engineOf(backend), () => keep(weight.rows({ start, end }).mul(1))))
  }
  return denseWeight(parts)
}

/**
 * Values [rows, columns] stored as a weight of that shape is: packed the same way, or as dense rows of its type; as f32 where nothing here
 * can pack so (a weight that is only read). Throws E_SHAPE, and what packing throws.
 */
export async function storedLike(backend: Backend, weight: Weight, values: Float32Array): Promise<Weight> {
  const { format, shape } = weight
  if (values.length !== sizeOf(shape)) {
    throw new PeftError(
      "E_SHAPE",
      `[core] ${values.length} values do not fill [${shape}]; give one for each of the layer`,
    )
  }
  async function* whole(): AsyncGenerator<Float32Array> {
    yield values
  }
  if (weight.encode) return weight.encode(whole())
  if (format !== "bf16" && format !== "f16") return uploadDense(backend, values, "f32", shape)
  return uploadDense(backend, fromFloat32(fileDtypes[format], values) as TypedArray, format, shape)
}

const unlessPadding = call("select", call("eq", input(1), scalar(0)), input(2), input(0))

/** Gives back the memory of parameters. */
export function freeValues(values: Iterable<Tensor | Weight>): void {
  for (const value of values) isTensor(value) ? free(value) : value.free()
}

/** Rows of a table by ids, through which no gradient reaches the padding's row, as in torch.nn.Embedding. */
export function lookUp(weight: Weight, ids: Tensor, paddingId: number | undefined): Tensor {
  const rows = weight.rows(ids)
  if (paddingId === undefined || !rows.requiresGrad) return rows
  return map(unlessPadding, [rows, ids.reshape([...ids.shape, 1]), rows.detach()], { scalars: [paddingId] })
}

function rowsOf(parts: readonly (Range & { tensor: Tensor })[], { start, end }: Range): Tensor {
  const { engine } = (parts[0] as { tensor: Tensor }).tensor
  return scope(engine, () => {
    const pieces = parts
      .filter((p) => p.start < end && p.end > start)
      .map((p) => {
        const [from, to] = [Math.max(start, p.start) - p.start, Math.min(end, p.end) - p.start]
        const rows = from === 0 && to === p.end - p.start ? p.tensor : p.tensor.slice(0, from, to)
        return rows.cast("f32")
      })
    return concat(pieces, 0)
  })
}

/** How many rows of a matrix fit into one buffer of the backend. Throws E_BUFFER_SIZE when not even one does. */
export function rowsPerPart(backend: Backend, columns: number, dtype: DType): number {
  const rows = Math.floor(backend.supports.maxBufferBytes / (columns * bytesPerElement[dtype]))
  if (rows >= 1) return rows
  throw new PeftError(
    "E_BUFFER_SIZE",
    `[core] a row of ${columns} ${dtype} values does not fit into ${backend.name}'s buffers of ${backend.supports.maxBufferBytes} bytes`,
  )
}

/** Uploads a matrix as it is stored, in parts the backend takes. A 16-bit type it cannot hold must be widened by the caller. */
export function uploadDense(
  backend: Backend,
  data: TypedArray,
  dtype: DType,
  shape: Shape,
  source?: TensorRef,
): Weight {
  const [rows, columns] = shape as [number, number]
  const step = Math.min(rows, rowsPerPart(backend, columns, dtype))
  const tensors: Tensor[] = []
  for (let at = 0; at < rows; at += step) {
    const end = Math.min(rows, at + step)
    tensors.push(tensor(backend, data.subarray(at * columns, end * columns), [end - at, columns], dtype))
  }
  return denseWeight(tensors, source)
}
