/**
 * A tensor: a shape over a buffer that others may share, on one engine. What methods and models are written in.
 * Operations record their gradient when core asks for it; memory belongs to scopes (see engine.ts), so nothing here is disposed of by hand.
 */
import type { DType, Shape, TypedArray } from "./dtype.ts"
import { sizeOf } from "./dtype.ts"
import type { Engine, Storage } from "./engine.ts"
import { own, read, scope } from "./engine.ts"
import { PeftError } from "./errors.ts"
import type { Expr } from "./expr.ts"
import { call, input, scalar } from "./expr.ts"
import { apply } from "./op.ts"
import { concatOp, mapOp, permuteOp, reduceOp, reshapeOp, sliceOp } from "./ops/array.ts"
import { matmulOp } from "./ops/linear.ts"

const brand: unique symbol = Symbol.for("peftjs.tensor") as never

const [a, b] = [input(0), input(1)]
const unaryExpr = {
  neg: call("neg", a),
  exp: call("exp", a),
  log: call("log", a),
  sqrt: call("sqrt", a),
  rsqrt: call("rsqrt", a),
  abs: call("abs", a),
  tanh: call("tanh", a),
  sigmoid: call("sigmoid", a),
  silu: call("mul", a, call("sigmoid", a)),
  square: call("mul", a, a),
}
const binaryExpr = { add: call("add", a, b), sub: call("sub", a, b), mul: call("mul", a, b), div: call("div", a, b) }
const scalarExpr = {
  add: call("add", a, scalar(0)),
  sub: call("sub", a, scalar(0)),
  mul: call("mul", a, scalar(0)),
  div: call("div", a, scalar(0)),
}

export class Tensor {
  readonly engine: Engine
  /** Replaced by `assign` alone. */
  storage: Storage
  readonly shape: Shape
  readonly dtype: DType
  /** True for trainable parameters and for what was computed from them while a gradient is being recorded. */
  requiresGrad: boolean
  /** Set on the result of `.T`: a matmul reads the original instead of a turned copy. */
  readonly transposeOf: Tensor | undefined
  /** Tensors of its engine made before it. */
  readonly serial: number

  constructor(engine: Engine, storage: Storage, shape: Shape, dtype: DType, transposeOf?: Tensor) {
    this.engine = engine
    this.storage = storage
    this.shape = shape
    this.dtype = dtype
    this.requiresGrad = transposeOf?.requiresGrad ?? false
    this.transposeOf = transposeOf
    this.serial = engine.made++
    Object.defineProperty(this, brand, { value: true })
  }

  /** Elements in all. */
  get size(): number {
    return sizeOf(this.shape)
  }

  /** A matrix turned round, [n, m]; free inside matmul. Throws E_SHAPE unless two-dimensional. */
  get T(): Tensor {
    if (this.transposeOf) return this.transposeOf
    if (this.shape.length !== 2) throw shapeError("T", "a matrix is needed", this)
    return new Tensor(this.engine, this.storage, [this.shape[1] as number, this.shape[0] as number], this.dtype, this)
  }

  /** Elementwise, broadcasting as in NumPy. Throws E_SHAPE when the shapes do not broadcast. */
  add(other: Tensor | number): Tensor {
    return binary("add", this, other)
  }
  sub(other: Tensor | number): Tensor {
    return binary("sub", this, other)
  }
  mul(other: Tensor | number): Tensor {
    return binary("mul", this, other)
  }
  div(other: Tensor | number): Tensor {
    return binary("div", this, other)
  }
  neg(): Tensor {
    return map(unaryExpr.neg, [this])
  }
  exp(): Tensor {
    return map(unaryExpr.exp, [this])
  }
  log(): Tensor {
    return map(unaryExpr.log, [this])
  }
  sqrt(): Tensor {
    return map(unaryExpr.sqrt, [this])
  }
  rsqrt(): Tensor {
    return map(unaryExpr.rsqrt, [this])
  }
  abs(): Tensor {
    return map(unaryExpr.abs, [this])
  }
  tanh(): Tensor {
    return map(unaryExpr.tanh, [this])
  }
  sigmoid(): Tensor {
    return map(unaryExpr.sigmoid, [this])
  }
  /** x · sigmoid(x). */
  silu(): Tensor {
    return map(unaryExpr.silu, [this])
  }
  square(): Tensor {
    return map(unaryExpr.square, [this])
  }

  /**
   * Matrix product. This is [..., m, k]; other is [k, n] or has the same leading axes: [..., k, n].
   * Throws E_SHAPE when the inner sizes or leading axes differ.
   */
  matmul(other: Tensor): Tensor {
    const transA = this.transposeOf !== undefined
    const transB = other.transposeOf !== undefined
    const left = this.transposeOf ?? this
    const right = other.transposeOf ?? other
    const k = this.shape.at(-1)
    const lead = this.shape.slice(0, -2)
    const flat = other.shape.length === 2
    const fits = flat ? this.shape.length >= 1 : sameShape(lead, other.shape.slice(0, -2)) && this.shape.length > 2
    if (!fits || k !== other.shape.at(-2)) throw shapeError("matmul", "[..., m, k] and [k, n] are needed", this, other)
    if (!flat || this.shape.length === 2) return apply(matmulOp, [left, right], { transA, transB })
    const rows = left.reshape([sizeOf(this.shape.slice(0, -1)), k as number])
    const product = apply(matmulOp, [rows, right], { transA: false, transB })
    return product.reshape([...this.shape.slice(0, -1), other.shape[1] as number])
  }

  /** The same elements in another shape; one size may be -1. Shares memory. Throws E_SHAPE when the sizes differ. */
  reshape(shape: Shape): Tensor {
    const known = sizeOf(shape.filter((d) => d !== -1))
    const full = shape.map((d) => (d === -1 ? this.size / Math.max(known, 1) : d))
    if (sizeOf(full) !== this.size || full.some((d) => !Number.isInteger(d) || d < 0)) {
      throw shapeError("reshape", `[${shape}] holds another number of elements`, this)
    }
    return apply(reshapeOp, [materialize(this)], { shape: full })
  }

  /** Axis j of the result is axis axes[j] of this one; a copy. */
  permute(axes: readonly number[]): Tensor {
    const wanted = [...axes].sort((x, y) => x - y)
    if (
      !sameShape(
        wanted,
        this.shape.map((_, i) => i),
      )
    )
      throw shapeError("permute", `[${axes}] is no order of its axes`, this)
    return apply(permuteOp, [materialize(this)], { axes })
  }

  /** Elements start…end-1 along an axis (negative counts from the last); a copy. Throws E_SHAPE when out of range. */
  slice(axis: number, start: number, end: number): Tensor {
    const at = axis < 0 ? axis + this.shape.length : axis
    const n = this.shape[at]
    if (n === undefined || start < 0 || end < start || end > n)
      throw shapeError("slice", `${start}…${end} on axis ${axis}`, this)
    return apply(sliceOp, [materialize(this)], { axis: at, start, length: end - start })
  }

  /** Sum over an axis, or over everything. */
  sum(axis?: number, options?: { keepdims?: boolean }): Tensor {
    return reduce(this, "sum", axis, options?.keepdims ?? false)
  }
  /** Largest along an axis, or of everything. */
  max(axis?: number, options?: { keepdims?: boolean }): Tensor {
    return reduce(this, "max", axis, options?.keepdims ?? false)
  }
  /** Mean over an axis, or over everything. */
  mean(axis?: number, options?: { keepdims?: boolean }): Tensor {
    const n = axis === undefined ? this.size : (this.shape.at(axis) ?? 1)
    return this.sum(axis, options).mul(1 / n)
  }

  /** The same values in another element type (f32, i32, or a 16-bit float the backend supports). */
  cast(dtype: DType): Tensor {
    return dtype === this.dtype ? this : map(a, [this], { dtype })
  }

  /** The same values, through which no gradient flows. */
  detach(): Tensor {
    const whole = materialize(this)
    return own(new Tensor(whole.engine, whole.storage, whole.shape, whole.dtype))
  }

  /** Copies the values to the host once everything before has run. f16 and bf16 come as bit patterns. */
  data(): Promise<TypedArray> {
    return scope(this.engine, () => read(materialize(this)))
  }
}

/** True for tensors, whichever copy of core made them. */
export function isTensor(value: unknown): value is Tensor {
  return typeof value === "object" && value !== null && (value as Record<symbol, unknown>)[brand] === true
}

/** Evaluates an expression over tensors that broadcast together: any chain of elementwise arithmetic in one pass, with its gradient. */
export function map(
  expr: Expr,
  inputs: readonly Tensor[],
  options: { scalars?: readonly number[]; dtype?: DType } = {},
): Tensor {
  return apply(mapOp, inputs.map(materialize), { expr, scalars: options.scalars ?? [], dtype: options.dtype ?? "f32" })
}

/** Joins tensors along an axis (negative counts from the last). Throws E_SHAPE when another axis differs. */
export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  const [first] = tensors
  if (!first) throw new PeftError("E_SHAPE", "[core] concat of no tensors; give at least one")
  const at = axis < 0 ? axis + first.shape.length : axis
  const rest = (t: Tensor): Shape => t.shape.map((d, i) => (i === at ? 0 : d))
  if (!tensors.every((t) => sameShape(rest(t), rest(first)))) throw shapeError("concat", `axis ${axis}`, ...tensors)
  return tensors.length === 1 ? first : apply(concatOp, tensors.map(materialize), { axis: at })
}

/** The tensor itself, or a turned copy of what `.T` only promised. */
export function materialize(tensor: Tensor): Tensor {
  return tensor.transposeOf ? apply(permuteOp, [tensor.transposeOf], { axes: [1, 0] }) : tensor
}

export function sameShape(x: Shape, y: Shape): boolean {
  return x.length === y.length && x.every((d, i) => d === y[i])
}

/** E_SHAPE, naming the operation, what was wrong and the shapes given. */
export function shapeError(what: string, wrong: string, ...tensors: readonly Tensor[]): PeftError {
  return new PeftError("E_SHAPE", `[core] ${what}: ${wrong}; got ${tensors.map((t) => `[${t.shape}]`).join(" and ")}`)
}

function binary(name: keyof typeof binaryExpr, x: Tensor, y: Tensor | number): Tensor {
  return typeof y === "number" ? map(scalarExpr[name], [x], { scalars: [y] }) : map(binaryExpr[name], [x, y])
}

function reduce(x: Tensor, op: "sum" | "max", axis: number | undefined, keepdims: boolean): Tensor {
  const t = materialize(x)
  const at = axis === undefined ? undefined : axis < 0 ? axis + t.shape.length : axis
  if (at !== undefined && t.shape[at] === undefined) throw shapeError(op, `axis ${axis} does not exist`, t)
  const dims = at === undefined ? { outer: 1, n: t.size, inner: 1 } : axisOf(t.shape, at)
  const shape = t.shape.flatMap((d, i) => (at !== undefined && i !== at ? [d] : keepdims ? [1] : []))
  return apply(reduceOp, [t], { op, axis: dims, shape })
}

/** An axis of a shape as [outer, n, inner]. */
export function axisOf(shape: Shape, at: number): { outer: number; n: number; inner: number } {
  return { outer: sizeOf(shape.slice(0, at)), n: shape[at] as number, inner: sizeOf(shape.slice(at + 1)) }
}
