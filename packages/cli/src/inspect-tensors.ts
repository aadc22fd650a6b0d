/** Looking at tensors without a model: how many, of which types, and whether every value is a number. Must not know what they are for. */
import { PeftError } from "@peftjs/core"
import {
  type Dtype,
  elementCount,
  type TensorData,
  type TensorInfo,
  type TensorSource,
  toFloat32,
} from "@peftjs/safetensors"

export interface Summary {
  readonly tensor_count: number
  readonly parameters: number
  readonly bytes: number
  /** Elements by dtype. */
  readonly dtypes: Readonly<Record<string, number>>
}

export function summarise({ tensors }: TensorSource): Summary {
  const dtypes: Record<string, number> = {}
  let bytes = 0
  for (const { dtype, shape, byteLength } of tensors.values()) {
    dtypes[dtype] = (dtypes[dtype] ?? 0) + elementCount(shape)
    bytes += byteLength
  }
  const parameters = Object.values(dtypes).reduce((a, b) => a + b, 0)
  return { tensor_count: tensors.size, parameters, bytes, dtypes }
}

/** Types that can hold NaN, and that are weights when they stand in such files. */
const floats: readonly Dtype[] = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]
/** Read at a time. */
const chunkElements = 1 << 22

/** Reads every float. Throws E_NOT_FINITE naming the first tensor with NaN or Inf and how many it has, and what reading throws. */
export async function requireFinite(source: TensorSource): Promise<void> {
  for (const [name, info] of source.tensors) {
    if (!floats.includes(info.dtype)) continue
    let bad = 0
    for await (const values of pieces(source, name, info)) {
      for (const value of values) if (!Number.isFinite(value)) bad++
    }
    if (bad === 0) continue
    const total = elementCount(info.shape)
    throw new PeftError(
      "E_NOT_FINITE",
      `[cli] ${source.name}: ${name} holds NaN or Inf in ${bad} of ${total} values; the training that wrote it broke down, use an earlier checkpoint`,
    )
  }
}

async function* pieces(
  source: TensorSource,
  name: string,
  { shape }: TensorInfo,
): AsyncGenerator<Float32Array | Float64Array> {
  const [rows = 1, ...rest] = shape
  const step = Math.max(1, Math.floor(chunkElements / Math.max(1, elementCount(rest))))
  if (rows <= step) {
    yield widened(await source.read(name))
    return
  }
  for (let at = 0; at < rows; at += step) {
    yield widened(await source.readRows(name, at, Math.min(rows, at + step)))
  }
}

// A double beyond float32 is a number all the same.
function widened({ dtype, data }: TensorData): Float32Array | Float64Array {
  return data instanceof Float64Array ? data : toFloat32(dtype, data)
}
