/**
 * DoRA (Liu et al. 2024, arXiv 2402.09353) as PEFT computes it: W' = m · (W + s·B·A) / ‖W + s·B·A‖ per row of W, for an embedding per
 * column, the norm held constant in the backward pass. The norm is expanded, so that W + s·B·A never exists and W may be stored in any form.
 */
import { type Context, concat, type Tensor } from "@peftjs/core"

type Layer = Pick<Context, "site" | "base">

/** ‖W‖² per row, for an embedding per column. */
function squares({ site, base }: Layer): Tensor {
  const sums = base.parts.map((part) =>
    base
      .rows(part)
      .square()
      .sum(site.kind === "embedding" ? 0 : 1),
  )
  return site.kind === "embedding" ? sums.reduce((a, b) => a.add(b)) : concat(sums, 0)
}

/** ‖W + s·B·A‖ per row; `ofBase`: ‖W‖², where it is known. */
export function norm(layer: Layer, A: Tensor, B: Tensor, s: number, ofBase: Tensor = squares(layer)): Tensor {
  const product = layer.base.matmul(A, { transpose: layer.site.kind === "embedding" })
  const mixed = product.T.mul(B).sum(1)
  const ofUpdate = B.matmul(A.matmul(A.T)).mul(B).sum(1)
  const sum = ofBase.add(mixed.mul(2 * s)).add(ofUpdate.mul(s * s))
  return sum.sqrt()
}

/** The layer below and LoRA's update of `dropped`, the layer's input after dropout, turned to the magnitude m. */
export function withMagnitude(
  x: Tensor,
  dropped: Tensor,
  next: (x: Tensor) => Tensor,
  update: Tensor,
  { A, B, m, s }: { A: Tensor; B: Tensor; m: Tensor; s: number },
  context: Context,
): Tensor {
  const { site, base, bias } = context
  const ofBase = context.constant(`squares of ${site.path}`, () => squares(context))
  const ratio = m.div(norm(context, A.detach(), B.detach(), s, ofBase).detach())
  const below = next(x)
  const product = dropped === x ? (bias ? below.sub(bias) : below) : base.matmul(dropped)
  return below.add(product.mul(ratio.sub(1))).add(update.mul(ratio))
}
