/**
 * Where the operands of `map` lie: broadcasting turned into as few nested loops as possible.
 * Operands are contiguous, so along a loop an operand either moves through its own elements in order or stands still.
 */
import { type Expr, invariant, isLeaf, type Shape, sizeOf } from "@peftjs/core"

export interface Layout {
  /** Sizes of the loops, outermost first; axes of size 1 are gone, neighbours that every operand treats alike are one loop. */
  readonly sizes: readonly number[]
  /** Per operand and loop: how far one turn moves in the operand, 0 where it is broadcast. */
  readonly strides: readonly (readonly number[])[]
  /** Loop of an axis that the expression reads as `index`; absent where the axis has size 1 (its coordinate is always 0). */
  readonly loopOfAxis: ReadonlyMap<number, number>
}

export function layoutOf(expr: Expr, shapes: readonly Shape[], shape: Shape): Layout {
  const indexed = indexedAxes(expr)
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
  return { sizes, strides: moves.map((m) => stridesOf(m, sizes)), loopOfAxis }
}

/** The size of an operand along an output axis counted from the end; 1 where the operand has no such axis. */
function sizeAt(shape: Shape, fromEnd: number, outputSize: number): number {
  const size = shape.at(fromEnd)
  if (shape.length < -fromEnd || size === undefined) return 1
  invariant(
    size === 1 || size === outputSize,
    `backend-cpu: map operand [${shape}] does not broadcast to size ${outputSize}`,
  )
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

/** Operands whose shape does not fit their buffer are a broken promise of the layer above. */
export function checkOperand(length: number, shape: Shape): void {
  invariant(length === sizeOf(shape), `backend-cpu: a buffer of ${length} elements was given the shape [${shape}]`)
}
