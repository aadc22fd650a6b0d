/** A product with a matrix that exists a block of rows at a time. Must not know where the rows come from. */
import { add, joined, product, sliced } from "./arithmetic.ts"
import type { Ops } from "./ops.ts"
import type { TfTensor } from "./tf-runtime.ts"

export interface RowsDims {
  readonly rows: number
  readonly columns: number
  readonly transpose: boolean
  /** Rows at a time. */
  readonly step: number
}

/** x [m, columns] · Wᵀ → [m, rows], or with transpose x [m, rows] · W → [m, columns]; `rowsAt` makes f32 rows of W [count, columns]. */
export function productByRows(
  ops: Ops,
  x: TfTensor,
  { rows, transpose, step }: RowsDims,
  rowsAt: (start: number, count: number) => TfTensor,
): TfTensor {
  const parts: TfTensor[] = []
  for (let start = 0; start < rows; start += step) {
    const count = Math.min(step, rows - start)
    const [part] = ops.within(() => {
      const left = transpose ? sliced(ops, x, 1, start, count) : x
      return [product(ops, left, rowsAt(start, count), false, !transpose)] as const
    })
    const sum = transpose ? parts.pop() : undefined
    parts.push(sum ? add(ops, sum, part) : part)
    if (sum) ops.drop(sum, part)
  }
  return joined(ops, parts, 1)
}
