/** Normalisation of rows by their root mean square (Zhang & Sennrich 2019) or by mean and deviation (Ba et al. 2016), and the gradients. */
import { type FusedKernels, invariant } from "@peftjs/core"
import { add, binary, cast, constantOf, mul, reduced, sub, unary } from "./arithmetic.ts"
import type { Device } from "./device.ts"
import type { Ops } from "./ops.ts"
import type { TfTensor } from "./tf-runtime.ts"

export function createRmsNorm(device: Device): FusedKernels["rmsNorm"] {
  return (x, weight, { rows, n, eps }) => {
    invariant(x.length === rows * n && weight.length === n, `backend-cuda: rmsNorm of ${x.length} as [${rows}, ${n}]`)
    return device.produce(named("rmsNorm", rows, n), "f32", rows * n, (ops) => {
      const values = cast(ops, ops.of(x, [rows, n]), "f32")
      const scaled = mul(ops, values, inverseRoot(ops, values, eps))
      return mul(ops, scaled, cast(ops, ops.of(weight, [n]), "f32"))
    })
  }
}

/** dx = g·r + x·s with g = dy·w, r = 1 / sqrt(mean(x²) + eps) and s = -r³·mean(g·x), which is twice the gradient of r. */
export function createRmsNormBackward(device: Device): FusedKernels["rmsNormBackward"] {
  return (x, weight, dy, { rows, n, eps }) =>
    device.produce(named("rmsNormBackward", rows, n), "f32", rows * n, (ops) => {
      const values = cast(ops, ops.of(x, [rows, n]), "f32")
      const g = mul(ops, cast(ops, ops.of(dy, [rows, n]), "f32"), cast(ops, ops.of(weight, [n]), "f32"))
      const r = inverseRoot(ops, values, eps)
      return add(ops, mul(ops, g, r), mul(ops, values, rootGradient(ops, r, meanOfProduct(ops, g, values))))
    })
}

export function createLayerNorm(device: Device): FusedKernels["layerNorm"] {
  return (x, weight, bias, { rows, n, eps }) => {
    invariant(
      x.length === rows * n && weight.length === n && bias.length === n,
      `backend-cuda: layerNorm of ${x.length} as [${rows}, ${n}]`,
    )
    return device.produce(named("layerNorm", rows, n), "f32", rows * n, (ops) => {
      const c = centered(ops, cast(ops, ops.of(x, [rows, n]), "f32"))
      const scaled = mul(ops, mul(ops, c, inverseRoot(ops, c, eps)), cast(ops, ops.of(weight, [n]), "f32"))
      return add(ops, scaled, cast(ops, ops.of(bias, [n]), "f32"))
    })
  }
}

/** dx = (g - mean(g))·r + c·s with c = x - mean(x), g = dy·w, r = 1 / sqrt(mean(c²) + eps) and s = -r³·mean(g·c). */
export function createLayerNormBackward(device: Device): FusedKernels["layerNormBackward"] {
  return (x, weight, dy, { rows, n, eps }) =>
    device.produce(named("layerNormBackward", rows, n), "f32", rows * n, (ops) => {
      const c = centered(ops, cast(ops, ops.of(x, [rows, n]), "f32"))
      const g = mul(ops, cast(ops, ops.of(dy, [rows, n]), "f32"), cast(ops, ops.of(weight, [n]), "f32"))
      const r = inverseRoot(ops, c, eps)
      const along = mul(ops, c, rootGradient(ops, r, meanOfProduct(ops, g, c)))
      return add(ops, mul(ops, aroundMean(ops, g), r), along)
    })
}

const named = (kernel: string, rows: number, n: number) => (): string => `${kernel} of [${rows}, ${n}]`

const aroundMean = (ops: Ops, x: TfTensor): TfTensor => sub(ops, x, reduced(ops, "Mean", x, [1], true))

/**
 * What the first mean is off by is taken away by a second: numbers that lie close together far from 0 then lose no digits, of which the
 * division by a small deviation would make large errors.
 */
const centered = (ops: Ops, x: TfTensor): TfTensor => aroundMean(ops, aroundMean(ops, x))

/** 1 / sqrt(mean(x²) + eps) of each row. */
function inverseRoot(ops: Ops, x: TfTensor, eps: number): TfTensor {
  const squares = unary(ops, "Square", x)
  const mean = reduced(ops, "Mean", squares, [1], true)
  ops.drop(squares)
  return unary(ops, "Rsqrt", add(ops, mean, constantOf(ops, eps)))
}

function meanOfProduct(ops: Ops, a: TfTensor, b: TfTensor): TfTensor {
  const products = mul(ops, a, b)
  const mean = reduced(ops, "Mean", products, [1], true)
  ops.drop(products)
  return mean
}

/** -r³·mean: RsqrtGrad has half of it. */
function rootGradient(ops: Ops, r: TfTensor, mean: TfTensor): TfTensor {
  const half = binary(ops, "RsqrtGrad", r, mean)
  return add(ops, half, half)
}
