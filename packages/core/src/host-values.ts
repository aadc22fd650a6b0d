/** Values between the device and the host, whole: results, weights, and what is put into a tensor. Must not know models, methods or files. */
import type { TypedArray } from "./dtype.ts"
import { assign, type Engine, free, hold, noGrad, scope, tensor } from "./engine.ts"
import { isTensor, type Tensor } from "./tensor.ts"
import type { Weight } from "./weight.ts"

/** Runs a computation without gradients and copies its f32 result to the host. */
export async function computed(engine: Engine, body: () => Tensor): Promise<Float32Array> {
  const result = noGrad(engine, () => scope(engine, () => hold(body())))
  try {
    return (await result.data()) as Float32Array
  } finally {
    free(result)
  }
}

/** All elements of an f32 tensor or of a weight, which is read in the parts that it is stored in. */
export async function hostValues(engine: Engine, value: Tensor | Weight): Promise<Float32Array> {
  if (isTensor(value)) return (await value.data()) as Float32Array
  const [rows, columns] = value.shape
  const values = new Float32Array(rows * columns)
  for (const { start, end } of value.parts)
    values.set(await computed(engine, () => value.rows({ start, end })), start * columns)
  return values
}

/** Replaces a held tensor's values in place, as `assign` does. Throws E_SHAPE when they do not fill it. */
export function setValues(target: Tensor, values: TypedArray | readonly number[]): void {
  const { engine, shape, dtype } = target
  noGrad(engine, () => scope(engine, () => assign(target, tensor(engine.backend, values, shape, dtype))))
}
