/**
 * M over every block of R features, block b turned by angles b · 10000^(-2j/R) first (Jiang et al. 2024, equation 9, in the half-split
 * layout of the authors' code). The turned input is n times what goes in and is computed again for the gradient. Knows no method.
 */
import { apply, type Context, type Init, type Op, rope, scope, type Tensor } from "@peftjs/core"
import { folded, tiled } from "./groups.ts"

export interface Angles {
  /** [1, n, 1, R/2]. */
  readonly cos: Tensor
  readonly sin: Tensor
}

/** Cosines and sines for n blocks of R features, one pair for all layers of these sizes. */
export function angles(n: number, R: number, constant: Context["constant"]): Angles {
  const half = R / 2
  const table =
    (f: (angle: number) => number) =>
    (init: Init): Tensor => {
      const angle = (i: number): number => Math.floor(i / half) * 10000 ** (-(i % half) / half)
      return init.tensor(
        Float32Array.from({ length: n * half }, (_, i) => f(angle(i))),
        [1, n, 1, half],
      )
    }
  return { cos: constant(`cos ${n} ${R}`, table(Math.cos)), sin: constant(`sin ${n} ${R}`, table(Math.sin)) }
}

/** x [rows, in] → [rows·n, R]: filled up with its first features, every block turned. */
function turned(x: Tensor, { cos, sin }: Angles): Tensor {
  const [, n, , half] = cos.shape as [number, number, number, number]
  const blocks = (): Tensor => tiled(x, 2 * half * n).reshape([-1, n, 1, 2 * half])
  return scope(x.engine, () => rope(blocks(), cos, sin).reshape([-1, 2 * half]))
}

const turnedProductOp: Op<null> = {
  forward([x, m, cos, sin]) {
    const [t, M] = [x as Tensor, m as Tensor]
    const product = turned(t, { cos: cos as Tensor, sin: sin as Tensor }).matmul(M.T)
    return product.reshape([t.shape[0] as number, -1])
  },
  saves: ([needX, needM]) => [...(needM ? [0] : []), ...(needX ? [1] : []), 2, 3],
  gradient({ dy, inputs, needs: [needX, needM] }) {
    const [x, M, cos, sin] = inputs as [Tensor, Tensor, Tensor, Tensor]
    const blocks = dy.reshape([-1, M.shape[0] as number])
    const back = (): Tensor => {
      const wide = blocks.matmul(M).reshape([-1, ...cos.shape.slice(1, 3), M.shape[0] as number])
      return folded(rope(wide, cos, sin.neg()).reshape(dy.shape), x.shape[1] as number)
    }
    const ofM = (): Tensor => blocks.T.matmul(turned(x, { cos, sin }))
    // One after the other, so that their turned blocks never exist at once.
    return [needX ? scope(dy.engine, back) : undefined, needM ? scope(dy.engine, ofM) : undefined]
  },
}

/** x [rows, in] → [rows, n·R], n = ⌈in/R⌉: M times every turned block of x. */
export function turnedProduct(x: Tensor, M: Tensor, { cos, sin }: Angles): Tensor {
  return apply(turnedProductOp, [x, M, cos, sin], null)
}
