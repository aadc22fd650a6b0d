/**
 * The fixed linear maps around M: how features are brought together into R groups, and how R values are spread over features again.
 * Rows of matrices [rows, width] throughout. Each map's gradient is written beside it; none keeps anything for it. Knows no method.
 */
import { apply, concat, full, type Op, type Tensor } from "@peftjs/core"

/** A width to come to. */
type To = { readonly width: number }

const widthOf = (x: Tensor): number => x.shape[1] as number

/** y[j mod K] for j < width: whole copies, then what is left. */
export function tiled(y: Tensor, width: number): Tensor {
  const K = widthOf(y)
  const [whole, rest] = [Math.floor(width / K), width % K]
  const copies = Array<Tensor>(whole).fill(y)
  return concat(rest === 0 ? copies : [...copies, y.slice(1, 0, rest)], 1)
}

/** The adjoint of `tiled`: a[k] is the sum of x[j] with j mod K = k. */
export function folded(x: Tensor, K: number): Tensor {
  const width = widthOf(x)
  const [whole, rest] = [Math.floor(width / K), width % K]
  if (whole === 0) return concat([x, full(x.engine.backend, [x.shape[0] as number, K - width], 0)], 1)
  const body = whole === 1 ? x : rest === 0 ? x : x.slice(1, 0, whole * K)
  const sums = whole === 1 ? body : body.reshape([-1, whole, K]).sum(1)
  if (rest === 0) return sums
  return concat([sums.slice(1, 0, rest).add(x.slice(1, whole * K, width)), sums.slice(1, rest, K)], 1)
}

const tileOp: Op<To> = {
  forward: ([y], { width }) => tiled(y as Tensor, width),
  saves: () => [],
  gradient: ({ dy, inputs: [y] }) => [folded(dy, widthOf(y as Tensor))],
}

/** y [rows, K] → [rows, width]: out[j] = y[j mod K]. */
export function tile(y: Tensor, width: number): Tensor {
  return width === widthOf(y) ? y : apply(tileOp, [y], { width })
}

const wrappedSumOp: Op<To> = {
  forward([x], { width: R }) {
    const t = x as Tensor
    return folded(tiled(t, Math.ceil(widthOf(t) / R) * R), R)
  },
  saves: () => [],
  gradient({ dy, inputs: [x], args: { width: R } }) {
    const width = widthOf(x as Tensor)
    const pad = (R - (width % R)) % R
    if (pad === 0) return [tiled(dy, width)]
    // The first features were counted again at the end.
    const first = dy.slice(1, 0, pad).add(dy.slice(1, R - pad, R))
    const copies = Array<Tensor>(Math.floor(width / R) - 1).fill(dy)
    return [concat([first, dy.slice(1, pad, R), ...copies, dy.slice(1, 0, R - pad)], 1)]
  },
}

/** x [rows, in] → [rows, R]: a[k] is the sum of x[i] with i mod R = k, where x goes on from its beginning until R divides its length. */
export function wrappedSum(x: Tensor, R: number): Tensor {
  return R === widthOf(x) ? x : apply(wrappedSumOp, [x], { width: R })
}

/** y[k] several times over, the first width mod K of them once more than the others. */
function repeated(y: Tensor, width: number): Tensor {
  const K = widthOf(y)
  const [times, longer] = [Math.floor(width / K), width % K]
  const each = (part: Tensor, n: number): Tensor => {
    const column = part.reshape([-1, widthOf(part), 1])
    return n === 1 ? part : column.mul(full(y.engine.backend, [n], 1)).reshape([-1, widthOf(part) * n])
  }
  if (longer === 0) return each(y, times)
  return concat([each(y.slice(1, 0, longer), times + 1), each(y.slice(1, longer, K), times)], 1)
}

/** The adjoint of `repeated`: sums of neighbours. */
function summed(x: Tensor, K: number): Tensor {
  const width = widthOf(x)
  const [each, longer] = [Math.floor(width / K), width % K]
  const sums = (part: Tensor, n: number): Tensor => (n === 1 ? part : part.reshape([-1, widthOf(part) / n, n]).sum(2))
  if (longer === 0) return sums(x, each)
  const cut = longer * (each + 1)
  return concat([sums(x.slice(1, 0, cut), each + 1), sums(x.slice(1, cut, width), each)], 1)
}

const repeatOp: Op<To> = {
  forward: ([y], { width }) => repeated(y as Tensor, width),
  saves: () => [],
  gradient: ({ dy, inputs: [y] }) => [summed(dy, widthOf(y as Tensor))],
}

const runSumOp: Op<To> = {
  forward: ([x], { width }) => summed(x as Tensor, width),
  saves: () => [],
  gradient: ({ dy, inputs: [x] }) => [repeated(dy, widthOf(x as Tensor))],
}

/** y [rows, K] → [rows, width], width ≥ K: each value over a run of neighbours; the first width mod K runs are one longer. */
export function repeat(y: Tensor, width: number): Tensor {
  return width === widthOf(y) ? y : apply(repeatOp, [y], { width })
}

/** x [rows, in] → [rows, R]: sums over such runs. */
export function runSum(x: Tensor, R: number): Tensor {
  return R === widthOf(x) ? x : apply(runSumOp, [x], { width: R })
}
