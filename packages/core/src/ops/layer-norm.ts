/**
 * Layer normalisation (Ba et al. 2016). No backend has a fused kernel for it: forward and gradient are maps and means over the last axis.
 */
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

/** Mean and 1/√(variance + eps) of each row. */
function moments(x: Tensor, eps: number): readonly [Tensor, Tensor] {
  const mean = x.mean(-1, { keepdims: true })
  const variance = map(centred, [x, mean]).square().mean(-1, { keepdims: true })
  return [mean, map(inverseRoot, [variance], { scalars: [eps] })]
}

const layerNormOp: Op<{ eps: number }> = {
  forward([x, weight, bias], { eps }) {
    const t = x as Tensor
    return map(affine, [t, ...moments(t, eps), weight as Tensor, bias as Tensor])
  },
  saves: () => [0, 1],
  gradient({ dy, inputs: [x, weight], args: { eps }, needs: [needX, needWeight, needBias] }) {
    const [t, w] = [x as Tensor, weight as Tensor]
    const perColumn = (values: Tensor): Tensor => values.reshape([-1, w.size]).sum(0)
    if (!needX && !needWeight) return [undefined, undefined, perColumn(dy)]
    const [mean, rstd] = moments(t, eps)
    const xhat = map(normal, [t, mean, rstd])
    const scaled = dy.mul(w)
    const means = (values: Tensor): Tensor => values.mean(-1, { keepdims: true })
    return [
      needX ? map(back, [rstd, dy, w, means(scaled), xhat, means(scaled.mul(xhat))]) : undefined,
      needWeight ? perColumn(dy.mul(xhat)) : undefined,
      needBias ? perColumn(dy) : undefined,
    ]
  },
}

/** (x - mean) · rsqrt(variance + eps) · weight + bias over the last axis; weight and bias are [n]. Throws E_SHAPE. */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const n = x.shape.at(-1)
  if ([weight, bias].some(({ shape }) => shape.length !== 1 || shape[0] !== n))
    throw shapeError("layerNorm", "weight and bias must be as long as the last axis", x, weight, bias)
  return apply(layerNormOp, [x, weight, bias], { eps })
}
