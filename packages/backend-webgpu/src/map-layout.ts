/**
 * Where the operands of `map` lie: broadcasting turned into as few nested loops as possible.
 * Operands are contiguous, so along a loop an operand either moves through its own elements in order or stands still.
 */
import { invariant, type Shape } from "@peftjs/core"

export interface Layout {
  /** Sizes of the loops, outermost first, at least one; axes of size 1 are gone, neighbours that all operands treat alike are one loop. */
  readonly sizes: readonly number[]
  /** Per operand and loop: how many elements one turn moves on in the operand; 0 where it is broadcast. */
  readonly strides: readonly (readonly number[])[]
  /** Loop of an axis whose coordinate is wanted; absent where the axis has size 1 (its coordinate is always 0). */
  readonly loopOfAxis: ReadonlyMap<number, number>
}

/** `coordinates` are the axes that keep a loop of their own. */
export function layoutOf(shapes: readonly Shape[], shape: Shape, coordinates: ReadonlySet<number>): Layout {
  const sizes: number[] = []
  const moves: boolean[][] = []
  const loopOfAxis = new Map<number, number>()
  let mergeable = false
  shape.forEach((size, axis) => {
    if (size === 1) return
    const now = shapes.map((s) => sizeAt(s, axis - shape.length, size) !== 1)
    const last = sizes.length - 1
    const own = coordinates.has(axis)
    if (mergeable && !own && now.every((m, k) => m === moves[last]?.[k])) {
      sizes[last] = (sizes[last] as number) * size
      return
    }
    if (own) loopOfAxis.set(axis, sizes.length)
    sizes.push(size)
    moves.push(now)
    mergeable = !own
  })
  if (sizes.length === 0) {
    sizes.push(1)
    moves.push(shapes.map(() => true))
  }
  return { sizes, strides: shapes.map((_, k) => stridesOf(sizes, (loop) => moves[loop]?.[k] === true)), loopOfAxis }
}

/** The size of an operand along an output axis counted from the end; 1 where the operand has no such axis. */
function sizeAt(shape: Shape, fromEnd: number, outputSize: number): number {
  const size = shape.length < -fromEnd ? 1 : (shape.at(fromEnd) ?? 1)
  invariant(size === 1 || size === outputSize, `backend-webgpu: map operand [${shape}] does not broadcast`)
  return size
}

function stridesOf(sizes: readonly number[], moves: (loop: number) => boolean): number[] {
  const strides = sizes.map(() => 0)
  let stride = 1
  for (let loop = sizes.length - 1; loop >= 0; loop--) {
    if (!moves(loop)) continue
    strides[loop] = stride
    stride *= sizes[loop] as number
  }
  return strides
}
