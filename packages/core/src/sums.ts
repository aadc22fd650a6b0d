/**
 * Sums of matrix products that wait for further terms. A product that meets an addition becomes one sum with it, computed when somebody
 * needs a value of it: what is added up (a layer and its adapter, the residual stream, the gradients of an input of many layers) then
 * costs no pass over memory of its own. Exists inside scopes alone and on backends that have the kernel; elsewhere a product is computed at once.
 * Must not know operations: they ask for sums here, and everybody else finds them computed (`bufferOf`).
 */
import type { DeviceBuffer, Product } from "./backend.ts"
import type { Shape } from "./dtype.ts"
import { bufferOf, type Engine, own, type Storage } from "./engine.ts"
import { Tensor } from "./tensor.ts"

/** What a storage holds before it has a buffer. */
export interface Sum {
  readonly products: readonly Product[]
  readonly addend: DeviceBuffer | undefined
  readonly m: number
  readonly n: number
  /** What the operands' buffers belong to: they are kept until the sum is computed or nobody wants it any more. */
  readonly operands: readonly Storage[]
}

/** The product as a sum that waits; undefined where it is to be computed at once. `operands`: the tensors behind its buffers. */
export function waitingProduct(
  engine: Engine,
  m: number,
  n: number,
  make: () => Product,
  operands: readonly Tensor[],
): Tensor | undefined {
  if (!engine.backend.kernels.sumOfProducts || 4 * m * n > engine.backend.supports.maxBufferBytes) return undefined
  const stored = operands.map(({ storage }) => storage)
  return wait(engine, [m, n], { products: [make()], addend: undefined, m, n, operands: stored })
}

/** x + y as one sum; undefined where neither waits, or where they do not go together. */
export function waitingSum(x: Tensor, y: Tensor): Tensor | undefined {
  const [p, q] = [x.storage.sum, y.storage.sum]
  if (x.shape.length !== y.shape.length || x.shape.some((d, i) => d !== y.shape[i])) return undefined
  if (p && q) {
    if ((p.addend && q.addend) || p.n !== q.n) return undefined
    const products = [...p.products, ...q.products]
    const operands = [...p.operands, ...q.operands]
    return wait(x.engine, x.shape, { ...p, products, addend: p.addend ?? q.addend, operands })
  }
  const [sum, other] = p ? [p, y] : [q, x]
  if (!sum || sum.addend || other.dtype !== "f32") return undefined
  return wait(x.engine, x.shape, { ...sum, addend: bufferOf(other), operands: [...sum.operands, other.storage] })
}

/** x times a number; undefined where x does not wait, or is more than products. */
export function waitingMultiple(x: Tensor, factor: number): Tensor | undefined {
  const { sum } = x.storage
  if (!sum || sum.addend) return undefined
  return wait(x.engine, x.shape, { ...sum, products: sum.products.map((p) => ({ ...p, alpha: factor * p.alpha })) })
}

/** The tensor, computed now: where what a sum would keep is large, and is to go with the scope. */
export function computed(tensor: Tensor): Tensor {
  bufferOf(tensor)
  return tensor
}

function wait(engine: Engine, shape: Shape, sum: Sum): Tensor {
  for (const storage of sum.operands) storage.refs++
  const storage: Storage = { buffer: undefined, sum, refs: 0 }
  engine.waiting.add(storage)
  return own(new Tensor(engine, storage, shape, "f32"))
}
