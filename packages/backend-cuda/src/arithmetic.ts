/**
 * The ops that kernels are made of, with the attributes TensorFlow wants for them. Each has a GPU kernel for the types it is used with.
 * Knows no kernel and no buffer.
 */
import type { Shape } from "@peftjs/core"
import { type Ops, sameShape } from "./ops.ts"
import type { TfTensor, TfType } from "./tf-runtime.ts"

const index = { type: "i32" } as const

/** Elementwise, of operands that broadcast; both have one type. */
export function binary(ops: Ops, name: string, a: TfTensor, b: TfTensor): TfTensor {
  return ops.run(name, { T: { type: a.type } }, a, b)
}

export const add = (ops: Ops, a: TfTensor, b: TfTensor): TfTensor => binary(ops, "AddV2", a, b)
export const sub = (ops: Ops, a: TfTensor, b: TfTensor): TfTensor => binary(ops, "Sub", a, b)
export const mul = (ops: Ops, a: TfTensor, b: TfTensor): TfTensor => binary(ops, "Mul", a, b)

export function unary(ops: Ops, name: string, x: TfTensor): TfTensor {
  return ops.run(name, { T: { type: x.type } }, x)
}

/** a where the condition is true, else b. */
export function select(ops: Ops, condition: TfTensor, a: TfTensor, b: TfTensor): TfTensor {
  return ops.run("SelectV2", { T: { type: a.type } }, condition, a, b)
}

/** To another type; floats are rounded to nearest even, those that become integers towards 0. */
export function cast(ops: Ops, x: TfTensor, type: TfType): TfTensor {
  return x.type === type ? x : ops.run("Cast", { SrcT: { type: x.type }, DstT: { type } }, x)
}

export function reshape(ops: Ops, x: TfTensor, shape: Shape): TfTensor {
  if (sameShape(x.shape, shape)) return x
  return ops.run("Reshape", { T: { type: x.type }, Tshape: index }, x, ops.ints(shape))
}

/** Sum, Mean or Max along axes, which stay with size 1 if `keep`. */
export function reduced(
  ops: Ops,
  name: "Sum" | "Mean" | "Max",
  x: TfTensor,
  axes: readonly number[],
  keep: boolean,
): TfTensor {
  return ops.run(name, { T: { type: x.type }, Tidx: index, keep_dims: { bool: keep } }, x, ops.ints(axes))
}

export function transposed(ops: Ops, x: TfTensor, axes: readonly number[]): TfTensor {
  if (axes.every((axis, i) => axis === i)) return x
  return ops.run("Transpose", { T: { type: x.type }, Tperm: index }, x, ops.ints(axes))
}

/** Elements start…start+length-1 along one axis. (Slice has no GPU kernel for u8 and u32; StridedSlice has one for every type.) */
export function sliced(ops: Ops, x: TfTensor, axis: number, start: number, length: number): TfTensor {
  if (start === 0 && length === x.shape[axis]) return x
  const begin = x.shape.map((_, i) => (i === axis ? start : 0))
  const end = x.shape.map((n, i) => (i === axis ? start + length : n))
  const strides = x.shape.map(() => 1)
  const attributes = { T: { type: x.type }, Index: index }
  return ops.run("StridedSlice", attributes, x, ops.ints(begin), ops.ints(end), ops.ints(strides))
}

export function joined(ops: Ops, xs: readonly TfTensor[], axis: number): TfTensor {
  const [first] = xs as readonly [TfTensor]
  if (xs.length === 1) return first
  return ops.run("ConcatV2", { T: { type: first.type }, N: { int: xs.length }, Tidx: index }, ...xs, axisOf(ops, axis))
}

/** Rows of a table by ids (i32). */
export function rowsOf(ops: Ops, table: TfTensor, ids: TfTensor): TfTensor {
  const attributes = { Tparams: { type: table.type }, Tindices: { type: ids.type }, Taxis: index }
  return ops.run("GatherV2", attributes, table, ids, axisOf(ops, 0))
}

/** Product of matrices in f32, or of as many pairs as the first axis of both has. */
export function product(ops: Ops, a: TfTensor, b: TfTensor, transA = false, transB = false): TfTensor {
  const [x, y] = [{ bool: transA }, { bool: transB }]
  const T = { type: a.type }
  return a.shape.length === 2
    ? ops.run("MatMul", { T, transpose_a: x, transpose_b: y }, a, b)
    : ops.run("BatchMatMulV2", { T, adj_x: x, adj_y: y }, a, b)
}

const axisOf = (ops: Ops, axis: number): TfTensor => ops.constant("i32", [], `${axis}`, () => Int32Array.of(axis))

/** An f32 that a formula has, kept on the device. */
export function constantOf(ops: Ops, value: number): TfTensor {
  return ops.constant("f32", [], Object.is(value, -0) ? "-0" : `${value}`, () => Float32Array.of(value))
}
