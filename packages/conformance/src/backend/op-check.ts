/** Runs one tensor operation on a backend and holds its value and its gradients to an oracle in f64. */
import type { Backend, Shape, Tensor, TypedArray } from "@peftjs/core"
import { engineOf, free, hold, scope, sizeOf, tensor, valueAndGradients } from "@peftjs/core"
import { check, close, same } from "../assert.ts"
import { gradientOf, type Host, host, numbers } from "./host.ts"
import { tolerances } from "./tolerances.ts"

export interface OpInput {
  readonly shape: Shape
  readonly data: Float32Array | Int32Array
  /** Whether its gradient is checked too. */
  readonly trainable: boolean
}

export interface OpCase {
  readonly name: string
  readonly inputs: readonly OpInput[]
  /** The operation, on tensors of the inputs. */
  run(tensors: readonly Tensor[]): Tensor
  /** What it means, in f64. */
  reference(inputs: readonly Host[]): Host
  readonly tolerance?: number
  /** Fused kernels it runs on where a backend has them. */
  readonly fused?: readonly string[]
}

/** A trainable f32 input of numbers between low and high. */
export function real(name: string, shape: Shape, low = -1, high = 1): OpInput {
  return { shape, data: numbers(name, sizeOf(shape), low, high), trainable: true }
}

/** An f32 input that is held fixed. */
export function fixed(name: string, shape: Shape, low = -1, high = 1): OpInput {
  return { ...real(name, shape, low, high), trainable: false }
}

/** An i32 input. */
export function ints(shape: Shape, values: readonly number[]): OpInput {
  return { shape, data: Int32Array.from(values), trainable: false }
}

export interface OpResult {
  readonly value: TypedArray
  /** One per input; undefined where none is wanted. */
  readonly gradients: readonly (TypedArray | undefined)[]
}

/** Value of the operation, and gradients of the sum of its elements times fixed weights. Leaves no buffer behind. */
export async function runOp(backend: Backend, test: OpCase): Promise<OpResult> {
  const engine = engineOf(backend)
  const before = engine.liveBuffers
  const tensors = scope(engine, () =>
    test.inputs.map(({ data, shape, trainable }) => {
      const held = hold(tensor(backend, data, shape, data instanceof Int32Array ? "i32" : "f32"))
      held.requiresGrad = trainable
      return held
    }),
  )
  const output = scope(engine, () => hold(test.run(tensors)))
  const value = await output.data()
  const gradients: (TypedArray | undefined)[] = tensors.map(() => undefined)
  if (tensors.some((t) => t.requiresGrad)) {
    const weights = weightsFor(output.size)
    const result = valueAndGradients(engine, () =>
      test
        .run(tensors)
        .mul(tensor(backend, weights, output.shape))
        .sum(),
    )
    free(result.value)
    for (const [i, t] of tensors.entries()) gradients[i] = await result.gradients.get(t)?.data()
    for (const g of result.gradients.values()) free(g)
  }
  free(output)
  for (const t of tensors) free(t)
  check(engine.liveBuffers === before, `${test.name}: ${engine.liveBuffers - before} buffers were left behind`)
  return { value, gradients }
}

const weightsFor = (n: number): Float32Array => numbers("weights", n, 0.5, 1.5)

/** Value and gradients against the oracle, and the same bits from a second run. */
export async function checkOp(backend: Backend, test: OpCase): Promise<void> {
  const { name, inputs, tolerance = tolerances.composed } = test
  const result = await runOp(backend, test)
  const hosts = inputs.map((x) => host(x.shape, x.data))
  close(result.value, test.reference(hosts).data, tolerance, name)
  for (const [i, { trainable, data }] of inputs.entries()) {
    if (!trainable) continue
    const expected = gradientOf((x) => test.reference(x), hosts, i, weightsFor(result.value.length))
    const found = result.gradients[i] ?? new Float32Array(data.length)
    close(found, expected, tolerance, `${name}: gradient of input ${i}`)
  }
  const again = await runOp(backend, test)
  same(again.value, result.value, `${name}: a second run`)
  for (const [i, g] of result.gradients.entries())
    if (g) same(again.gradients[i] as TypedArray, g, `${name}: gradient of input ${i} in a second run`)
}
