/** Layer normalisation (Ba et al. 2016): a backend's fused kernels, or maps and means over the last axis. */
import { bufferOf, wrap } from "../engine.ts"
import { call, input, scalar } from "../expr.ts"
import type { Op } from "../op.ts"
import { apply } from "../op.ts"
import { map, shapeError, type Tensor } from "../tensor.ts"

const centred = call("sub", input(0), input(1))
const inverseRoot = call("rsqrt", call("add", input(0), scalar(0)))
const normal = call("mul", centred, input(2))
const affine = call("add", call("mul", normal, input(3)), input(4))
// r·(dy·w - mean(dy·w) - x̂·mean(dy·w·x̂))
const back = call(
  "mul",
  input(0),
  call("sub", call("sub", call("mul", input(1), input(2)), input(3)), call("mul", input(4), input(5))),
)

const rowMeans = (values: Tensor): Tensor => values.mean(-1, { keepdims: true })

/** Mean and 1/√(variance + eps) of each row. */
function moments(x: Tensor, eps: number): readonly [Tensor, Tensor] {
  const mean = rowMeans(x)
  const variance = rowMeans(map(centred, [x, mean]).square())
  return [mean, map(inverseRoot, [variance], { scalars: [eps] })]
}

function normalised(x: Tensor, eps: number): Tensor {
  return map(normal, [x, ...moments(x, eps)])
}

const layerNormOp: Op<{ eps: number }> = {
  forward([x, w, b], { eps }) {
    const [t, weight, bias] = [x as Tensor, w as Tensor, b as Tensor]
    const { engine } = t
    const fused = engine.backend.kernels.layerNorm
    const n = weight.size
    if (fused)
      return wrap(engine, fused(bufferOf(t), bufferOf(weight), bufferOf(bias), { rows: t.size / n, n, eps }), t.shape)
    return map(affine, [t, ...moments(t, eps), weight, bias])
  },
  saves: ([needX, needWeight]) => (needX || needWeight ? [0, 1] : [1]),
  gradient({ dy, inputs: [x, w], args: { eps }, needs: [needX, needWeight, needBias] }) {
    const [t, weight] = [x as Tensor, w as Tensor]
    const perColumn = (values: Tensor): Tensor => values.reshape([-1, weight.size]).sum(0)
    return [
      needX ? layerNormGradient(t, weight, dy, eps) : undefined,
      needWeight ? perColumn(dy.mul(normalised(t, eps))) : undefined,
      needBias ? perColumn(dy) : undefined,
    ]
  },
}

function layerNormGradient(x: Tensor, weight: Tensor, dy: Tensor, eps: number): Tensor {
  const { engine } = x
  const n = weight.size
  const fused = engine.backend.kernels.layerNormBackward
  if (fused)
    return wrap(engine, fused(bufferOf(x), bufferOf(weight), bufferOf(dy), { rows: x.size / n, n, eps }), x.shape)
  const [mean, rstd] = moments(x, eps)
  const xhat = map(normal, [x, mean, rstd])
  const scaled = dy.mul(weight)
  return map(back, [rstd, dy, weight, rowMeans(scaled), xhat, rowMeans(scaled.mul(xhat))])
}

/** (x - mean) · rsqrt(variance + eps) · weight + bias over the last axis; weight and bias are [n]. Throws E_SHAPE. */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const n = x.shape.at(-1)
  if ([weight, bias].some(({ shape }) => shape.length !== 1 || shape[0] !== n))
    throw shapeError("layerNorm", "weight and bias must be as long as the last axis", x, weight, bias)
  return apply(layerNormOp, [x, weight, bias], { eps })
}
