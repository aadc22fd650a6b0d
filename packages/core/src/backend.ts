/**
 * The contract of a device: buffers and kernels.
 * A backend must not know tensors, shapes' meaning, gradients, lifetimes, models or methods: those live above it.
 * Kernels are functional: they return new buffers, never alias or write an argument (those listed under InPlaceKernels excepted).
 * Enqueueing is synchronous; an error may surface at the next read() or flush(); what must be awaited is awaited in the backend's factory.
 * Sizes and positions are counted in elements. All arithmetic is in f32; f16 and bf16 operands are widened when loaded.
 */
import type { DType, Shape, TypedArray } from "./dtype.ts"
import type { Expr } from "./expr.ts"
import type { PackedLayout } from "./packed-layout.ts"

/** Opaque to everybody but the backend that made it. */
export interface DeviceBuffer {
  readonly dtype: DType
  readonly length: number
}

/** What the device can do; the conformance kit tests it in both directions (what is declared absent must throw E_UNSUPPORTED). */
export interface Supports {
  /** Element types that upload() takes and kernels may load. "f32", "i32" and "u32" are required. */
  readonly dtypes: readonly DType[]
  /** Largest buffer, in bytes. Core splits weights and vocabulary so that no operand is larger. */
  readonly maxBufferBytes: number
}

export interface Backend {
  readonly name: string
  readonly specVersion: 1
  readonly supports: Supports
  /**
   * Resolves when the device is gone, to the error that every later upload, kernel, read and flush throws (E_DEVICE_LOST), pending reads
   * included. `free` still works. Absent on a device that cannot be lost.
   */
  readonly lost?: Promise<Error>
  /** Copies host memory to a new buffer. Throws E_UNSUPPORTED (dtype), E_BUFFER_SIZE. */
  upload(data: TypedArray, dtype: DType): DeviceBuffer
  /** Gives the memory back. The buffer must not be used afterwards. */
  free(buffer: DeviceBuffer): void
  /** Copies a buffer to the host, after everything enqueued before. */
  read(buffer: DeviceBuffer): Promise<TypedArray>
  /** Resolves when everything enqueued has run. */
  flush(): Promise<void>
  readonly kernels: RequiredKernels & Partial<FusedKernels> & Partial<InPlaceKernels>
}

/** An operand of `map`; its shape broadcasts to the output's as in NumPy. */
export interface MapInput {
  readonly buffer: DeviceBuffer
  readonly shape: Shape
}

/** One axis in the middle of a row-major array: [outer, n, inner]. */
export interface Axis {
  readonly outer: number
  readonly n: number
  readonly inner: number
}

/** C[i] = op(A[i]) · op(B[i]) for i < batch; op(A) is [m, k], stored [k, m] when transA; op(B) is [k, n], stored [n, k] when transB. */
export interface MatmulDims {
  readonly batch: number
  readonly m: number
  readonly n: number
  readonly k: number
  readonly transA: boolean
  readonly transB: boolean
}

export interface RequiredKernels {
  /** out[i] = expr(inputs at i), one pass. `dtype` is f32, i32 or a 16-bit float of `supports.dtypes` (rounded to nearest even). */
  map(expr: Expr, inputs: readonly MapInput[], scalars: readonly number[], shape: Shape, dtype: DType): DeviceBuffer
  /** Over the middle axis: [outer, n, inner] → [outer, inner], f32. The sum of nothing is 0, the maximum of nothing -Infinity. */
  reduce(op: "sum" | "max", x: DeviceBuffer, axis: Axis): DeviceBuffer
  /** Batched product, f32 out. Operands may be f32, f16 or bf16. */
  matmul(a: DeviceBuffer, b: DeviceBuffer, dims: MatmulDims): DeviceBuffer
  /** Rows of table [rows, width] by ids (i32, [n]) → [n, width] in f32. Ids are inside 0…rows-1: checked above. */
  gather(table: DeviceBuffer, ids: DeviceBuffer, dims: { rows: number; width: number; n: number }): DeviceBuffer
  /** out[ids[i]] += x[i] into zeros [rows, width]; x is [n, width]. Equal ids add up in the order of i. */
  scatterAdd(x: DeviceBuffer, ids: DeviceBuffer, dims: { rows: number; width: number; n: number }): DeviceBuffer
  /** Output axis j is input axis axes[j]. */
  permute(x: DeviceBuffer, shape: Shape, axes: readonly number[]): DeviceBuffer
  /** [outer, n, inner] → [outer, length, inner] from `start`. */
  slice(x: DeviceBuffer, axis: Axis & { readonly start: number; readonly length: number }): DeviceBuffer
  /** Joins [outer, n_i, inner] along the middle axis. */
  concat(xs: readonly DeviceBuffer[], axis: { outer: number; ns: readonly number[]; inner: number }): DeviceBuffer
  /** n words of Threefry-2x32 (20 rounds): word 2i and 2i+1 are the block with counter [i, 0] under `key`. Equal on every backend. */
  randomBits(key: readonly [number, number], n: number): DeviceBuffer
}

/** Shapes of an attention: q [batch, queries, heads, dim], k and v [batch, keys, kvHeads, dim]; heads is a multiple of kvHeads. */
export interface AttentionDims {
  readonly batch: number
  readonly queries: number
  readonly keys: number
  readonly heads: number
  readonly kvHeads: number
  readonly dim: number
  /** Multiplies q·k. */
  readonly scale: number
  /** Query i sees keys j ≤ i + offset; keys - queries when a cache comes before. */
  readonly offset: number
  /** Query i sees keys j > i + offset - window. */
  readonly window?: number
}

/** Whole rows of a packed matrix. `offset` elements stand before the first row's, `skip` scales before those of the first block. */
export interface PackedOperand {
  readonly layout: PackedLayout
  readonly offset: number
  readonly skip: number
  /** u8, of whole blocks. */
  readonly codes: DeviceBuffer
  /** f32: the value of each byte, where codes have 4 bits of its high half and its low half. */
  readonly book: DeviceBuffer
  /** f32, or u8 of whole nested blocks. */
  readonly scales: DeviceBuffer
  readonly minimums?: DeviceBuffer
  /** Where scales are nested: f32, and the value of each code. */
  readonly nested?: { readonly scales: DeviceBuffer; readonly book: DeviceBuffer }
}

/**
 * A term of a sum: alpha · op(A) · op(B) with op(A) [m, k], stored [k, m] when transA, and op(B) [k, n], stored [n, k] when transB.
 * A packed B is one part, and goes with an A that is not transposed.
 */
export interface Product {
  readonly alpha: number
  readonly a: DeviceBuffer
  readonly b: DeviceBuffer | PackedOperand
  readonly k: number
  readonly transA: boolean
  readonly transB: boolean
}

/** Optional: each is checked by the kit against its decomposition in core, which is used where it is missing. */
export interface FusedKernels {
  /** Along the last axis of [rows, n]. */
  softmax(x: DeviceBuffer, rows: number, n: number): DeviceBuffer
  /** y = x · rsqrt(mean(x²) + eps) · weight; x [rows, n], weight [n]. */
  rmsNorm(x: DeviceBuffer, weight: DeviceBuffer, dims: { rows: number; n: number; eps: number }): DeviceBuffer
  /** As map to f32, several expressions over the same operands, each to a buffer of its own, in one pass. */
  maps(
    exprs: readonly Expr[],
    inputs: readonly MapInput[],
    scalars: readonly number[],
    shape: Shape,
  ): readonly DeviceBuffer[]
  /** log Σ exp along the last axis of [rows, n] → [rows]; -Infinity for a row that is empty or holds nothing else. */
  logSumExp(x: DeviceBuffer, rows: number, n: number): DeviceBuffer
  /** Both of them, of [rows, n] with n at least 1: the softmax [rows, n] and the log Σ exp [rows]. */
  softmaxLogSumExp(x: DeviceBuffer, rows: number, n: number): readonly [DeviceBuffer, DeviceBuffer]
  /**
   * Rotary positions in the half-split layout: x [outer, tokens, heads, dim], cos and sin [rows, tokens, dim/2] where rows is outer or 1.
   * First half: x1·cos - x2·sin; second: x2·cos + x1·sin.
   */
  rope(
    x: DeviceBuffer,
    cos: DeviceBuffer,
    sin: DeviceBuffer,
    dims: { outer: number; rows: number; tokens: number; heads: number; dim: number },
  ): DeviceBuffer
  /** y = (x - mean) · rsqrt(variance + eps) · weight + bias; x [rows, n], weight and bias [n]. */
  layerNorm(
    x: DeviceBuffer,
    weight: DeviceBuffer,
    bias: DeviceBuffer,
    dims: { rows: number; n: number; eps: number },
  ): DeviceBuffer
  /** Gradient of layerNorm with respect to x. */
  layerNormBackward(
    x: DeviceBuffer,
    weight: DeviceBuffer,
    dy: DeviceBuffer,
    dims: { rows: number; n: number; eps: number },
  ): DeviceBuffer
  /** Gradient of rmsNorm with respect to x. */
  rmsNormBackward(
    x: DeviceBuffer,
    weight: DeviceBuffer,
    dy: DeviceBuffer,
    dims: { rows: number; n: number; eps: number },
  ): DeviceBuffer
  /** Causal attention; `valid` (i32 [batch, keys]) hides keys that hold 0. A query that sees no key gets the mean of all v. */
  attention(
    q: DeviceBuffer,
    k: DeviceBuffer,
    v: DeviceBuffer,
    valid: DeviceBuffer | undefined,
    dims: AttentionDims,
  ): DeviceBuffer
  /** dq, dk, dv of attention. */
  attentionBackward(
    q: DeviceBuffer,
    k: DeviceBuffer,
    v: DeviceBuffer,
    valid: DeviceBuffer | undefined,
    dy: DeviceBuffer,
    dims: AttentionDims,
  ): readonly [DeviceBuffer, DeviceBuffer, DeviceBuffer]
  /** x [m, columns] · Wᵀ → [m, rows], or with transpose x [m, rows] · W → [m, columns], from the packed bytes. */
  packedMatmul(
    x: DeviceBuffer,
    w: PackedOperand,
    dims: { readonly m: number; readonly rows: number; readonly columns: number; readonly transpose: boolean },
  ): DeviceBuffer
  /** addend + Σ products → f32 [m, n]. Operands as in matmul and packedMatmul; addend f32 [m, n], 0 where there is none. One product at least. */
  sumOfProducts(
    products: readonly Product[],
    addend: DeviceBuffer | undefined,
    dims: { readonly m: number; readonly n: number },
  ): DeviceBuffer
  /** Rows start…end-1, counted from the operand's first, as f32. */
  unpack(
    w: PackedOperand,
    dims: { readonly start: number; readonly end: number; readonly columns: number },
  ): DeviceBuffer
}

/** Scalars of one AdamW step (Loshchilov & Hutter 2019, decoupled decay): see train's adamw for the formula. */
export interface AdamWScalars {
  readonly learningRate: number
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly weightDecay: number
  /** 1 - beta1^t and 1 - beta2^t. */
  readonly correction1: number
  readonly correction2: number
  /** Multiplies the gradient first (clipping). */
  readonly gradScale: number
}

/** Optional kernels that write into their arguments; the only ones that may. */
export interface InPlaceKernels {
  /** Updates p, m and v, all f32 of equal length. */
  adamw(p: DeviceBuffer, g: DeviceBuffer, m: DeviceBuffer, v: DeviceBuffer, scalars: AdamWScalars): void
}
