/** Makes tensors for methods: the host side of `Init`. */
import type { Backend } from "./backend.ts"
import { sizeOf } from "./dtype.ts"
import { full, tensor } from "./engine.ts"
import type { Init } from "./method.ts"
import { keyOf, normals, uniforms } from "./random.ts"

/** An Init whose random numbers depend on seed, place and name only. */
export function makeInit(backend: Backend, seed: number, place: string): Init {
  return {
    zeros: (shape) => full(backend, shape, 0),
    ones: (shape) => full(backend, shape, 1),
    tensor: (values, shape) => tensor(backend, values, shape),
    uniform: (name, shape, low, high) =>
      tensor(backend, uniforms(keyOf(seed, "init", place, name), sizeOf(shape), low, high), shape),
    normal: (name, shape, std) => tensor(backend, normals(keyOf(seed, "init", place, name), sizeOf(shape), std), shape),
  }
}
