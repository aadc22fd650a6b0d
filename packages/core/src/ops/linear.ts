/** Products and table look-ups, with their gradients. */
import type { Product } from "../backend.ts"
import { bufferOf, wrap } from "../engine.ts"
import { call, constant, input, scalar } from "../expr.ts"
import type { Op } from "../op.ts"
import { apply } from "../op.ts"
import { waitingProduct } from "../sums.ts"
import { map, type Tensor } from "../tensor.ts"

/** Two matrices, or two stacks of matrices with equal leading axes; either may be read turned round. */
export const matmulOp: Op<{ transA: boolean; transB: boolean }> = {
  forward([a, b], { transA, transB }) {
    const [x, y] = [a as Tensor, b as Tensor]
    const lead = x.shape.slice(0, -2)
    const [ra, ca] = x.shape.slice(-2) as [number, number]
    const [rb, cb] = y.shape.slice(-2) as [number, number]
    const [m, k, n] = [transA ? ca : ra, transA ? ra : ca, transB ? rb : cb]
    const batch = lead.reduce((p, d) => p * d, 1)
    const { engine } = x
    const product = (): Product => ({ alpha: 1, a: bufferOf(x), b: bufferOf(y), k, transA, transB })
    const waiting = lead.length === 0 ? waitingProduct(engine, m, n, product, [x, y]) : undefined
    if (waiting) return waiting
    return wrap(engine, engine.backend.kernels.matmul(bufferOf(x), bufferOf(y), { batch, m, n, k, transA, transB }), [
      ...lead,
      m,
      n,
    ])
  },
  saves: ([needA, needB]) => [...(needA ? [1] : []), ...(needB ? [0] : [])],
  gradient({ dy, inputs: [a, b], args: { transA, transB }, needs: [needA, needB] }) {
    const [x, y] = [a as Tensor, b as Tensor]
    const product = (p: Tensor, q: Tensor, tp: boolean, tq: boolean): Tensor =>
      apply(matmulOp, [p, q], { transA: tp, transB: tq })
    const da = (): Tensor => (transA ? product(y, dy, transB, true) : product(dy, y, false, !transB))
    const db = (): Tensor => (transB ? product(dy, x, true, transA) : product(x, dy, !transA, false))
    return [needA ? da() : undefined, needB ? db() : undefined]
  },
}

/** Rows of a table [rows, width] by ids [n] → [n, width]. */
export const gatherOp: Op<null> = {
  forward([table, ids]) {
    const [t, i] = [table as Tensor, ids as Tensor]
    const [rows, width] = t.shape as [number, number]
    const dims = { rows, width, n: i.size }
    return wrap(t.engine, t.engine.backend.kernels.gather(bufferOf(t), bufferOf(i), dims), [i.size, width])
  },
  saves: () => [1],
  gradient({ dy, inputs: [table, ids] }) {
    return [apply(scatterAddOp, [dy, ids as Tensor], { rows: (table as Tensor).shape[0] as number }), undefined]
  },
}

const inside = call("mul", call("le", scalar(0), input(0)), call("lt", input(0), scalar(1)))
const localId = call("mul", inside, call("sub", input(0), scalar(0)))
const insideRow = call("mul", call("le", scalar(0), input(1)), call("lt", input(1), scalar(1)))
const maskedRow = call("select", insideRow, input(0), constant(0))

const local = (ids: Tensor, start: number, end: number): Tensor =>
  map(localId, [ids], { scalars: [start, end], dtype: "i32" })
const masked = (rows: Tensor, ids: Tensor, start: number, end: number): Tensor =>
  map(maskedRow, [rows, ids.reshape([-1, 1])], { scalars: [start, end] })

/** Rows by ids [n] of a table of which `part` holds rows start…end-1; zeros where an id is outside them. */
export function gatherPart(part: Tensor, ids: Tensor, start: number, end: number): Tensor {
  return masked(apply(gatherOp, [part, local(ids, start, end)], null), ids, start, end)
}

/** What `scatterAdd` of rows [n, width] at ids [n] leaves in rows start…end-1. */
export function scatterAddPart(x: Tensor, ids: Tensor, start: number, end: number): Tensor {
  return apply(scatterAddOp, [masked(x, ids, start, end), local(ids, start, end)], { rows: end - start })
}

/** Adds rows [n, width] into zeros [rows, width] at ids [n]. */
export const scatterAddOp: Op<{ rows: number }> = {
  forward([x, ids], { rows }) {
    const [t, i] = [x as Tensor, ids as Tensor]
    const width = t.shape[1] as number
    const dims = { rows, width, n: i.size }
    return wrap(t.engine, t.engine.backend.kernels.scatterAdd(bufferOf(t), bufferOf(i), dims), [rows, width])
  },
  saves: () => [1],
  gradient: ({ dy, inputs: [, ids] }) => [apply(gatherOp, [dy, ids as Tensor], null), undefined],
}
