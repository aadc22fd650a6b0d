/**
 * Where the operands of `map` lie: broadcasting turned into as few nested loops as possible. For backends.
 * Operands are contiguous, so along a loop an operand either moves through its own elements in order or stands still.
 */
import { type Shape, sizeOf } from "./dtype.ts"
import { invariant } from "./errors.ts"
import { type Expr, isLeaf } from "./expr.ts"

export interface Layout {
  /** Sizes of the loops, outermost first, at least one; axes of size 1 are gone, neighbours that all operands treat alike are one loop. */
  readonly sizes: readonly number[]
  /** Per operand and loop: how far one turn moves in the operand, 0 where it is broadcast. */
  readonly strides: readonly (readonly number[])[]
  /** Loop of an axis that the expression reads as `index`; absent where the axis has size 1 (its coordinate is always 0). */
  readonly loopOfAxis: ReadonlyMap<number, number>
}

/** For one expression, or several that share their operands. Throws E_INTERNAL if a shape does not broadcast to `shape`. */
export function layoutOf(expr: Expr | readonly Expr[], shapes: readonly Shape[], shape: Shape): Layout {
  const indexed = new Set([expr].flat().flatMap((e) => [...indexedAxes(e)]))
  const sizes: number[] = []
  const moves: boolean[][] = shapes.map(() => [])
  const loopOfAxis = new Map<number, number>()
  let mergeable = false
  shape.forEach((size, axis) => {
    if (size === 1) return
    const now = shapes.map((s) => sizeAt(s, axis - shape.length, size) !== 1)
    const last = sizes.length - 1
    const own = indexed.has(axis)
    if (mergeable && !own && now.every((m, k) => m === moves[k]?.[last])) {
      sizes[last] = (sizes[last] as number) * size
      return
    }
    if (own) loopOfAxis.set(axis, sizes.length)
    sizes.push(size)
    now.forEach((m, k) => {
      moves[k]?.push(m)
    })
    mergeable = !own
  })
  if (sizes.length === 0) {
    sizes.push(1)
    for (const steps of moves) steps.push(true)
  }
  return { sizes, strides: moves.map((m) => stridesOf(m, sizes)), loopOfAxis }
}

/** The size of an operand along an output axis counted from the end; 1 where the operand has no such axis. */
function sizeAt(shape: Shape, fromEnd: number, outputSize: number): number {
  const size = shape.at(fromEnd)
  if (shape.length < -fromEnd || size === undefined) return 1
  invariant(size === 1 || size === outputSize, `map operand [${shape}] does not broadcast to size ${outputSize}`)
  return size
}

function stridesOf(moves: readonly boolean[], sizes: readonly number[]): number[] {
  const strides = sizes.map(() => 0)
  let stride = 1
  for (let l = sizes.length - 1; l >= 0; l--) {
    if (!moves[l]) continue
    strides[l] = stride
    stride *= sizes[l] as number
  }
  return strides
}

const known = new WeakMap<Expr, ReadonlySet<number>>()

/** The axes whose coordinate an expression reads. */
function indexedAxes(expr: Expr): ReadonlySet<number> {
  const found = known.get(expr)
  if (found !== undefined) return found
  const axes = new Set<number>()
  const walk = (e: Expr): void => {
    if (!isLeaf(e)) e.args.forEach(walk)
    else if (e.op === "index") axes.add(e.axis)
  }
  walk(expr)
  known.set(expr, axes)
  return axes
}

/**
 * A permutation's output axes as loops over the input: how many turns, and how far each moves there. Axes of size 1 are gone, neighbours that
 * stay neighbours are one loop.
 */
export function permutedLoops(shape: Shape, axes: readonly number[]): { sizes: number[]; strides: number[] } {
  const sizes: number[] = []
  const strides: number[] = []
  for (const axis of axes) {
    const size = shape[axis] as number
    const stride = sizeOf(shape.slice(axis + 1))
    const last = sizes.length - 1
    if (size === 1) continue
    if (last >= 0 && strides[last] === stride * size) {
      sizes[last] = (sizes[last] as number) * size
      strides[last] = stride
    } else {
      sizes.push(size)
      strides.push(stride)
    }
  }
  return sizes.length > 0 ? { sizes, strides } : { sizes: [1], strides: [1] }
}
