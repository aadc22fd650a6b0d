/** Arrays in f64 on the host and derivatives by finite differences: the oracle against which operations are checked. Uses nothing of core's tensors. */
import type { Shape } from "@peftjs/core"
import { keyOf, sizeOf, uniforms } from "@peftjs/core"

/** A row-major array. */
export interface Host {
  readonly shape: Shape
  readonly data: Float64Array
}

export function host(shape: Shape, data: ArrayLike<number>): Host {
  return { shape, data: Float64Array.from(data) }
}

/** The element at a coordinate. */
export function at(x: Host, ...coordinate: readonly number[]): number {
  return x.data[coordinate.reduce((sum, i, axis) => sum * (x.shape[axis] as number) + i, 0)] as number
}

/** The element of an array that broadcasts to the coordinate. */
export function spread(x: Host, coordinate: readonly number[]): number {
  const from = coordinate.length - x.shape.length
  return at(x, ...x.shape.map((size, i) => (size === 1 ? 0 : (coordinate[i + from] as number))))
}

/** The array whose element at each coordinate is f(coordinate). */
export function tabulate(shape: Shape, f: (...coordinate: number[]) => number): Host {
  const data = Float64Array.from({ length: sizeOf(shape) }, (_, position) => {
    const coordinate: number[] = []
    let rest = position
    for (const size of [...shape].reverse()) {
      coordinate.unshift(rest % size)
      rest = Math.floor(rest / size)
    }
    return f(...coordinate)
  })
  return { shape, data }
}

/** f(0) + … + f(n-1). */
export function sum(n: number, f: (i: number) => number): number {
  let total = 0
  for (let i = 0; i < n; i++) total += f(i)
  return total
}

/** Softmax of n numbers. */
export function softmaxOf(n: number, f: (i: number) => number): number[] {
  const values = Array.from({ length: n }, (_, i) => f(i))
  const top = Math.max(...values)
  const total = sum(n, (i) => Math.exp((values[i] as number) - top))
  return values.map((v) => Math.exp(v - top) / total)
}

/** The same n numbers in [low, high) for the same name, all of them exact in f32. */
export function numbers(name: string, n: number, low = -1, high = 1): Float32Array {
  return uniforms(keyOf(0, "conformance", name), n, low, high)
}

/** Gradient of Σ weights · f(inputs) with respect to input `index`, by central differences in f64. */
export function gradientOf(
  f: (inputs: readonly Host[]) => Host,
  inputs: readonly Host[],
  index: number,
  weights: ArrayLike<number>,
): Float64Array {
  const x = inputs[index] as Host
  const step = 1e-5
  const loss = (position: number, change: number): number => {
    const data = x.data.slice()
    data[position] = (data[position] as number) + change
    const y = f(inputs.map((input, i) => (i === index ? { shape: x.shape, data } : input)))
    return sum(y.data.length, (i) => (y.data[i] as number) * (weights[i] as number))
  }
  return x.data.map((_, position) => (loss(position, step) - loss(position, -step)) / (2 * step))
}
