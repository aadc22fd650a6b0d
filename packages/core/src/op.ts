/** How one operation runs and is recorded. The table of operations is in ops/; each row holds its forward and its gradient side by side. */
import type { Engine, TapeNode } from "./engine.ts"
import { bufferOf, free, hold, noGrad, release, retain, scope } from "./engine.ts"
import { PeftError } from "./errors.ts"
import type { Tensor } from "./tensor.ts"
import { materialize } from "./tensor.ts"

/** What a gradient sees. Values not named by `saves` may be gone. */
export interface GradientContext<A> {
  readonly dy: Tensor
  readonly inputs: readonly Tensor[]
  readonly output: Tensor
  /** What forward returned after its output. */
  readonly extra: readonly Tensor[]
  readonly args: A
  /** Which inputs want a gradient. */
  readonly needs: readonly boolean[]
}

/** A row of the table. Its gradient is written in tensor operations, so every backend has it; leaving it out is a compile error. */
export interface Op<A> {
  /** The output, or the output followed by values the gradient wants back. Runs unrecorded in a scope of its own. */
  forward(inputs: readonly Tensor[], args: A): Tensor | readonly Tensor[]
  /** The values that the gradient will read: indices of inputs, and "output". */
  saves(needs: readonly boolean[], args: A): readonly (number | "output")[]
  /** The gradient for each input, undefined where there is none. */
  gradient(context: GradientContext<A>): readonly (Tensor | undefined)[]
}

/** Runs an operation, and records it when a gradient is wanted. Throws E_DEVICE when the tensors live on different backends. */
export function apply<A>(op: Op<A>, given: readonly Tensor[], args: A): Tensor {
  const inputs = given.map(materialize)
  const engine = (inputs[0] as Tensor).engine
  if (inputs.some((t) => t.engine !== engine)) {
    throw new PeftError(
      "E_DEVICE",
      "[core] tensors of different backends in one operation; load everything on one backend",
    )
  }
  const { outside } = engine
  if (outside) for (const t of inputs) if (t.serial < outside.since) outside.tensors.add(t)
  const result = noGrad(engine, () => scope(engine, () => op.forward(inputs, args)))
  const [output, ...extra] = Array.isArray(result) ? (result as Tensor[]) : [result as Tensor]
  const needs = inputs.map((t) => t.requiresGrad)
  if (!output || !needs.includes(true)) return output as Tensor
  if (!engine.tape) return output
  output.requiresGrad = true
  const saved = [...op.saves(needs, args).map((s) => (s === "output" ? output : (inputs[s] as Tensor))), ...extra]
  record(engine, output, inputs, saved, (dy) => op.gradient({ dy, inputs, output, extra, args, needs }))
  return output
}

function record(
  engine: Engine,
  output: Tensor,
  inputs: readonly Tensor[],
  saved: readonly Tensor[],
  gradient: TapeNode["gradient"],
): void {
  saved.forEach(retain)
  engine.tape?.push({ output, inputs, saved, gradient })
}

/** Runs `body`, recording what is done to tensors that need a gradient. */
export function taped<T>(engine: Engine, body: () => T): { result: T; tape: TapeNode[] } {
  const outer = engine.tape
  const outside = engine.outside
  const tape: TapeNode[] = []
  engine.tape = tape
  engine.outside = undefined
  try {
    return { result: body(), tape }
  } catch (error) {
    for (const node of tape) drop(engine, node)
    throw error
  } finally {
    engine.tape = outer
    engine.outside = outside
  }
}

/**
 * Walks a tape backwards from `output`, whose gradient is `dy`. Returns held gradients of every tensor that was not made on the tape
 * and wanted one. What a record saved is freed as soon as it has been used.
 */
export function backward(engine: Engine, tape: TapeNode[], output: Tensor, dy: Tensor): Map<Tensor, Tensor> {
  const grads = new Map<Tensor, Tensor>([[output, hold(dy)]])
  const first = tape[0]?.output.serial ?? 0
  try {
    for (let node = tape.at(-1); node; node = tape.at(-1)) {
      const grad = grads.get(node.output)
      if (grad) {
        spread(engine, node, grad, grads, first)
        grads.delete(node.output)
        free(grad)
      }
      drop(engine, node)
      tape.pop()
    }
    return grads
  } catch (error) {
    for (const node of tape) drop(engine, node)
    for (const grad of grads.values()) free(grad)
    throw error
  }
}

/** `first`: the serial of what was made first on the tape. */
function spread(engine: Engine, node: TapeNode, dy: Tensor, grads: Map<Tensor, Tensor>, first: number): void {
  noGrad(engine, () =>
    scope(engine, () => {
      for (const [i, g] of node.gradient(dy).entries()) {
        const target = node.inputs[i] as Tensor
        if (!g || !target.requiresGrad) continue
        const before = grads.get(target)
        const sum = hold(before ? before.add(g) : g)
        grads.set(target, sum)
        if (before) free(before)
        // Nothing on the tape will ask for it soon, and waiting it would keep what it is computed from.
        if (target.serial < first) bufferOf(sum)
      }
    }),
  )
}

function drop(engine: Engine, node: TapeNode): void {
  for (const t of node.saved) release(engine, t.storage)
}

/**
 * Runs a block and keeps only what it uses and its output; the backward pass runs it again (Chen et al. 2016, "Training deep nets with sublinear memory cost").
 * Random numbers are keyed, so the second run draws the same.
 */
export function checkpoint(engine: Engine, body: () => Tensor): Tensor {
  if (!engine.tape) return scope(engine, body)
  const tape = engine.tape
  const before = engine.outside
  const outside = { since: engine.made, tensors: new Set<Tensor>() }
  engine.tape = undefined
  engine.outside = outside
  let output: Tensor
  try {
    output = scope(engine, () => materialize(body()))
  } finally {
    engine.tape = tape
    engine.outside = before
  }
  // What needs no gradient, such as a mask, must still be there for the second run.
  const used = [...outside.tensors]
  const inputs = used.filter((t) => t.requiresGrad)
  if (inputs.length === 0) return output
  output.requiresGrad = true
  record(engine, output, inputs, used, (dy) => {
    const again = taped(engine, () => scope(engine, () => materialize(body())))
    const grads = backward(engine, again.tape, again.result, dy)
    return inputs.map((t) => {
      const g = grads.get(t)
      return g ? adoptHeld(g) : undefined
    })
  })
  return output
}

/** Moves a held tensor into the open scope. */
function adoptHeld(tensor: Tensor): Tensor {
  tensor.engine.scope?.add(tensor)
  return tensor
}

/**
 * The value of `body` and the gradients of everything trainable it used, keyed by tensor. Value and gradients belong to the caller (`free`).
 * Throws E_SHAPE when the value is not a scalar, E_NO_GRAD when nothing trainable was used.
 */
export function valueAndGradients(
  engine: Engine,
  body: () => Tensor,
): { value: Tensor; gradients: Map<Tensor, Tensor> } {
  return scope(engine, () => {
    const { result, tape } = taped(engine, () => {
      const loss = scope(engine, body)
      if (loss.size !== 1)
        throw new PeftError("E_SHAPE", `[core] a gradient needs a scalar; got [${loss.shape}]; sum it`)
      if (!loss.requiresGrad) {
        throw new PeftError(
          "E_NO_GRAD",
          "[core] the loss does not depend on anything trainable; adapt the model or unfreeze something",
        )
      }
      return loss
    })
    const value = hold(result)
    const one = result.detach().mul(0).add(1)
    return { value, gradients: backward(engine, tape, result, one) }
  })
}
