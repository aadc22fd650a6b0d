/** Operations that move, combine and reduce elements: the rows every backend runs on required kernels alone. */
import type { DeviceBuffer } from "../backend.ts"
import type { DType, Shape } from "../dtype.ts"
import { bufferOf, own, wrap } from "../engine.ts"
import { PeftError } from "../errors.ts"
import type { Expr } from "../expr.ts"
import { call, constant, differentiate, exprKey, input, inputsOf, renameInputs } from "../expr.ts"
import type { Op } from "../op.ts"
import { waitingMultiple, waitingSum } from "../sums.ts"
import { axisOf, concat, map, sameShape, shapeError, Tensor } from "../tensor.ts"

/** Elementwise arithmetic; its gradient is the differentiated expression times dy, summed over broadcast axes. */
export const mapOp: Op<{ expr: Expr; scalars: readonly number[]; dtype: DType }> = {
  forward(inputs, { expr, scalars, dtype }) {
    const { engine } = inputs[0] as Tensor
    const waiting = dtype === "f32" ? asSum(inputs, expr, scalars) : undefined
    if (waiting) return waiting
    const shape = broadcast(inputs)
    const operands = inputs.map((t) => ({ buffer: bufferOf(t), shape: t.shape }))
    return wrap(engine, engine.backend.kernels.map(expr, operands, scalars, shape, dtype), shape)
  },
  saves: (needs, { expr }) => [...new Set(needs.flatMap((need, i) => (need ? derivative(expr, i).reads : [])))],
  gradient({ dy, inputs, args, needs }) {
    const together = gradientsTogether(dy, inputs, args, needs)
    return inputs.map((t, i) => {
      const found = together?.get(i)
      if (found) return sumTo(found, t.shape)
      if (!needs[i]) return undefined
      const { expr, reads, zero, one } = derivative(args.expr, i)
      if (zero) return undefined
      const g = one ? dy : map(expr, [dy, ...reads.map((j) => inputs[j] as Tensor)], { scalars: args.scalars })
      return sumTo(g, t.shape)
    })
  },
}

/** Gradients of several inputs in one pass over dy and what they read; undefined where there is one alone, or no kernel. */
function gradientsTogether(
  dy: Tensor,
  inputs: readonly Tensor[],
  { expr, scalars }: { readonly expr: Expr; readonly scalars: readonly number[] },
  needs: readonly boolean[],
): ReadonlyMap<number, Tensor> | undefined {
  const { engine, shape } = dy
  const { maps } = engine.backend.kernels
  if (!maps) return undefined
  const wanted = inputs.flatMap((_, i) => {
    const { zero, one } = needs[i] ? derivative(expr, i) : { zero: true, one: false }
    return zero || one ? [] : [i]
  })
  if (wanted.length < 2) return undefined
  const { exprs, reads } = derivativesTogether(expr, wanted)
  const operands = [dy, ...reads.map((j) => inputs[j] as Tensor)].map((t) => ({ buffer: bufferOf(t), shape: t.shape }))
  const buffers = maps(exprs, operands, scalars, shape)
  return new Map(wanted.map((i, at) => [i, wrap(engine, buffers[at] as DeviceBuffer, shape)]))
}

/** An addition or a multiple of what waits; undefined for everything else. */
function asSum([x, y]: readonly Tensor[], expr: Expr, scalars: readonly number[]): Tensor | undefined {
  if (!x?.engine.waiting.size || !("args" in expr)) return undefined
  const [a, b] = expr.args
  if (a?.op !== "input" || a.index !== 0) return undefined
  if (expr.op === "add" && y && b?.op === "input" && b.index === 1) return waitingSum(x, y)
  if (expr.op === "mul" && b?.op === "scalar") return waitingMultiple(x, scalars[b.index] as number)
  return undefined
}

interface Derivative {
  /** dy · ∂expr/∂input, with dy as operand 0 and the inputs it reads after. */
  readonly expr: Expr
  readonly reads: readonly number[]
  readonly zero: boolean
  readonly one: boolean
}

const derivatives = new WeakMap<Expr, Map<number, Derivative>>()

function derivative(expr: Expr, index: number): Derivative {
  const known = derivatives.get(expr) ?? new Map<number, Derivative>()
  derivatives.set(expr, known)
  const found = known.get(index)
  if (found) return found
  const partial = differentiate(expr, index)
  const reads = inputsOf(partial)
  const renamed = renameInputs(partial, (i) => reads.indexOf(i) + 1)
  const made = {
    expr: call("mul", input(0), renamed),
    reads,
    zero: exprKey(partial) === exprKey(constant(0)),
    one: exprKey(partial) === exprKey(constant(1)),
  }
  known.set(index, made)
  return made
}

interface Derivatives {
  /** dy · ∂expr/∂input for some inputs, with dy as operand 0 and the inputs that any of them reads after. */
  readonly exprs: readonly Expr[]
  readonly reads: readonly number[]
}

const several = new WeakMap<Expr, Map<string, Derivatives>>()

function derivativesTogether(expr: Expr, wanted: readonly number[]): Derivatives {
  const known = several.get(expr) ?? new Map<string, Derivatives>()
  several.set(expr, known)
  const key = wanted.join()
  const found = known.get(key)
  if (found) return found
  const partials = wanted.map((i) => differentiate(expr, i))
  const reads = [...new Set(partials.flatMap(inputsOf))]
  const exprs = partials.map((e) =>
    call(
      "mul",
      input(0),
      renameInputs(e, (i) => reads.indexOf(i) + 1),
    ),
  )
  const made = { exprs, reads }
  known.set(key, made)
  return made
}

/** Sums the axes along which `shape` was broadcast to x's shape. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x
  const padded = [...Array<number>(x.shape.length - shape.length).fill(1), ...shape]
  let out = x
  // Neighbouring broadcast axes are summed in one go, last ones first.
  for (let end = padded.length; end > 0; end--) {
    if (padded[end - 1] === out.shape[end - 1]) continue
    let start = end - 1
    while (start > 0 && padded[start - 1] !== out.shape[start - 1]) start--
    const [before, after] = [out.shape.slice(0, start), out.shape.slice(end)]
    out = out.reshape([...before, -1, ...after]).sum(start)
    out = out.reshape([...before, ...padded.slice(start, end), ...after])
    end = start + 1
  }
  return out.reshape(shape)
}

function broadcast(inputs: readonly Tensor[]): Shape {
  const rank = Math.max(...inputs.map((t) => t.shape.length))
  return Array.from({ length: rank }, (_, i) => {
    const sizes = inputs.map((t) => t.shape[i - rank + t.shape.length] ?? 1)
    const size = sizes.find((d) => d !== 1) ?? 1
    if (sizes.some((d) => d !== 1 && d !== size)) throw shapeError("map", "the shapes do not broadcast", ...inputs)
    return size
  })
}

const isMax = call("eq", input(0), input(1))

/** Sum or maximum over one axis. Equal maxima each get the whole gradient. */
export const reduceOp: Op<{ op: "sum" | "max"; axis: { outer: number; n: number; inner: number }; shape: Shape }> = {
  forward([x], { op, axis, shape }) {
    const { engine } = x as Tensor
    return wrap(engine, engine.backend.kernels.reduce(op, bufferOf(x as Tensor), axis), shape)
  },
  saves: (_needs, { op }) => (op === "max" ? [0, "output"] : []),
  gradient({ dy, inputs: [x], output, args: { op, axis } }) {
    const [whole, reduced] = [
      [axis.outer, axis.n, axis.inner],
      [axis.outer, 1, axis.inner],
    ]
    const spread = dy.reshape(reduced as Shape)
    const { shape, engine } = x as Tensor
    if (op === "sum") {
      const operand = { buffer: bufferOf(spread), shape: spread.shape }
      return [
        wrap(
          engine,
          engine.backend.kernels.map(input(0), [operand], [], whole as Shape, "f32"),
          whole as Shape,
        ).reshape(shape),
      ]
    }
    const hit = map(isMax, [(x as Tensor).reshape(whole as Shape), output.reshape(reduced as Shape)])
    return [hit.mul(spread).reshape(shape)]
  },
}

/** Another shape over the same buffer. */
export const reshapeOp: Op<{ shape: Shape }> = {
  forward: ([x], { shape }) => {
    const { engine, storage, dtype } = x as Tensor
    return own(new Tensor(engine, storage, shape, dtype))
  },
  saves: () => [],
  gradient: ({ dy, inputs: [x] }) => [dy.reshape((x as Tensor).shape)],
}

export const permuteOp: Op<{ axes: readonly number[] }> = {
  forward([x], { axes }) {
    const { engine, shape } = x as Tensor
    const turned = axes.map((a) => shape[a] as number)
    return wrap(engine, engine.backend.kernels.permute(bufferOf(x as Tensor), shape, axes), turned)
  },
  saves: () => [],
  gradient: ({ dy, args: { axes } }) => [dy.permute(axes.map((_, i) => axes.indexOf(i)))],
}

export const sliceOp: Op<{ axis: number; start: number; length: number }> = {
  forward([x], { axis, start, length }) {
    const { engine, shape } = x as Tensor
    const out = shape.map((d, i) => (i === axis ? length : d))
    return wrap(
      engine,
      engine.backend.kernels.slice(bufferOf(x as Tensor), { ...axisOf(shape, axis), start, length }),
      out,
    )
  },
  saves: () => [],
  gradient({ dy, inputs: [x], args: { axis, start, length } }) {
    const { shape } = x as Tensor
    const zeros = (n: number): Tensor[] =>
      n === 0
        ? []
        : [
            zerosLike(
              dy,
              shape.map((d, i) => (i === axis ? n : d)),
            ),
          ]
    const after = (shape[axis] as number) - start - length
    return [concat([...zeros(start), dy, ...zeros(after)], axis)]
  },
}

export const concatOp: Op<{ axis: number }> = {
  forward(inputs, { axis }) {
    const [first] = inputs as [Tensor]
    const { outer, inner } = axisOf(first.shape, axis)
    const ns = inputs.map((t) => t.shape[axis] as number)
    const n = ns.reduce((a, b) => a + b, 0)
    const { engine } = first
    const buffer = engine.backend.kernels.concat(inputs.map(bufferOf), { outer, ns, inner })
    return wrap(
      engine,
      buffer,
      first.shape.map((d, i) => (i === axis ? n : d)),
    )
  },
  saves: () => [],
  gradient({ dy, inputs, args: { axis }, needs }) {
    let start = 0
    return inputs.map((t, i) => {
      const n = t.shape[axis] as number
      const from = start
      start += n
      return needs[i] ? dy.slice(axis, from, from + n) : undefined
    })
  },
}

function zerosLike(like: Tensor, shape: Shape): Tensor {
  return wrap(like.engine, like.engine.backend.kernels.map(constant(0), [], [], shape, "f32"), shape)
}

/** Refuses ids outside 0…rows-1 on the host, before a kernel sees them. Throws E_TOKEN_ID. */
export function checkIds(ids: ArrayLike<number>, rows: number): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i] as number
    if (!Number.isInteger(id) || id < 0 || id >= rows) {
      throw new PeftError(
        "E_TOKEN_ID",
        `[core] id ${id} at position ${i} is outside 0…${rows - 1}; was the text made by this model's tokenizer?`,
      )
    }
  }
}
