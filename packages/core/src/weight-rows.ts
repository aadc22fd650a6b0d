/**
 * A weight some of whose rows stand elsewhere: trained rows of a few tokens over a base that stays as it is stored, packed or not.
 * Must not know what the rows are for.
 */
import { free } from "./engine.ts"
import { call, constant, input, scalar } from "./expr.ts"
import { apply } from "./op.ts"
import { gatherOp } from "./ops/linear.ts"
import { map, type Tensor } from "./tensor.ts"
import type { Range, Weight } from "./weight.ts"

/** Rows that stand before those of a base. */
export interface ReplacedRows {
  /** Ids of the base's rows, in order of `rows`. */
  readonly ids: readonly number[]
  /** The same on the device: i32 [n]. */
  readonly at: Tensor
  /** [n, in]; differentiable. */
  readonly rows: Tensor
  /** For each row of the base, one more than its place in `rows`, or 0: f32 [out, 1]. */
  readonly slots: Tensor
}

const replacedHere = call("lt", scalar(0), input(0))
const choose = call("select", replacedHere, input(1), input(2))
const blank = call("select", replacedHere, constant(0), input(1))
const place = call("max", call("sub", input(0), scalar(0)), constant(0))

/** The base with those rows. Its own memory are the rows; the base's stays the base's. */
export function replaceRows(base: Weight, replaced: ReplacedRows): Weight {
  const { at, rows, slots } = replaced
  const [out, inner] = base.shape
  const pick = (table: Tensor, slot: Tensor): Tensor =>
    apply(gatherOp, [table, map(place, [slot], { scalars: [1], dtype: "i32" })], null)
  const over = (below: Tensor, slot: Tensor): Tensor =>
    map(choose, [slot.reshape([-1, 1]), pick(rows, slot), below], { scalars: [0] })
  return {
    format: base.format,
    shape: base.shape,
    bytes: base.bytes + 4 * rows.size,
    parts: base.parts.map(({ start, end }) => ({ start, end })),
    replaced,
    matmul(x, options) {
      const flat = x.reshape([-1, options?.transpose ? out : inner])
      const lead = x.shape.slice(0, -1)
      const [column, row] = [slots.reshape([-1]), slots.reshape([1, -1])]
      if (options?.transpose) {
        const kept = base.matmul(map(blank, [row, flat], { scalars: [0] }), { transpose: true })
        const moved = apply(gatherOp, [flat.permute([1, 0]), at], null)
          .permute([1, 0])
          .matmul(rows)
        return kept.add(moved).reshape([...lead, inner])
      }
      const own = pick(flat.matmul(rows.T).permute([1, 0]), column).permute([1, 0])
      return map(choose, [row, own, base.matmul(flat)], { scalars: [0] }).reshape([...lead, out])
    },
    rows(which: Range | Tensor) {
      if (!("shape" in which)) return over(base.rows(which), slots.slice(0, which.start, which.end).reshape([-1]))
      const ids = which.reshape([-1])
      const slot = apply(gatherOp, [slots, ids], null).reshape([-1])
      return over(base.rows(ids), slot).reshape([...which.shape, inner])
    },
    free() {
      for (const t of [at, rows, slots]) free(t)
    },
  }
}
