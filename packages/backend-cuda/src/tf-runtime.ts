/**
 * The contract between TensorFlow and the backend: tensors behind handles, ops by name. One implementation for each way into the library.
 * Must not know kernels, buffers of core or lifetimes: whoever gets a handle deletes it.
 */

/** DataType of tensorflow/core/framework/types.proto; the values are those of the C API (TF_FLOAT …). */
export const tfTypes = {
  f32: 1,
  f64: 2,
  i32: 3,
  u8: 4,
  i16: 5,
  i8: 6,
  i64: 9,
  bool: 10,
  bf16: 14,
  u16: 17,
  f16: 19,
  resource: 20,
  u32: 22,
  u64: 23,
} as const
export type TfType = keyof typeof tfTypes

/** Nothing but the runtime that gave it can read it. */
export type TfHandle = number

export interface TfTensor {
  readonly handle: TfHandle
  readonly type: TfType
  readonly shape: readonly number[]
}

/** An attribute of an op. */
export type TfAttr =
  | { readonly type: TfType }
  | { readonly int: number }
  | { readonly ints: readonly number[] }
  | { readonly float: number }
  | { readonly bool: boolean }
  | { readonly string: string }
  | { readonly shape: readonly number[] }

export interface TfDevice {
  /** "/job:localhost/replica:0/task:0/device:GPU:0". */
  readonly name: string
  readonly kind: "CPU" | "GPU"
  /** Bytes that TensorFlow may use on it, where the runtime tells. */
  readonly memory?: number
}

export interface TfRuntime {
  /** "tfjs-node-gpu addon" or "TensorFlow C API". */
  readonly name: string
  /** "2.18.1". */
  readonly version: string
  readonly devices: readonly TfDevice[]
  /** Where ops run. */
  readonly device: TfDevice
  /** Copies: the array may change afterwards. f16 and bf16 are given as 16-bit patterns. Throws E_OUT_OF_MEMORY. */
  createTensor(type: TfType, shape: readonly number[], data: ArrayBufferView): TfTensor
  /** Throws E_KERNEL with TensorFlow's message, E_OUT_OF_MEMORY. */
  executeOp(
    name: string,
    attributes: Readonly<Record<string, TfAttr>>,
    inputs: readonly TfHandle[],
    outputs: number,
  ): TfTensor[]
  /** A copy on the host: f16 and bf16 as patterns. Waits for what was enqueued. */
  read(tensor: TfTensor): ArrayBufferView
  delete(handle: TfHandle): void
  /** Handles that are not deleted yet. */
  count(): number
}
